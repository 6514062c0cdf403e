"""Settings for a SLURM cluster: settings.yaml or a file like it, then the command line."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...benchmarks.files import read_yaml
from ...methods.checks import checked
from ...methods.errors import ConfigError, nearest

DEFAULTS = Path(__file__).with_name("settings.yaml")


@dataclass(frozen=True)
class Settings:
    """What settings.yaml explains."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    reservation: str | None
    gpus: int
    cpus: int
    mem: str | None
    time: int | None
    pack_minutes: float
    max_parallel: int | None
    runs_per_gpu: int
    warning_seconds: int
    poll_seconds: float
    setup: tuple[str, ...] = ()
    sbatch: dict[str, Any] = field(default_factory=dict)
    prior: dict[str, float] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """The part of it that submitit passes to sbatch, in submitit's words."""
        extra = {"requeue": True, "reservation": self.reservation} | self.sbatch
        values: dict[str, Any] = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            # since 22.05 srun does not ask for the job's cores by itself
            "srun_args": [f"--cpus-per-task={self.cpus}"],
            "mem": self.mem,
            "nodes": 1,
            "ntasks_per_node": 1,
            "signal_delay_s": self.warning_seconds,
            "stderr_to_stdout": True,
        }
        values["additional_parameters"] = {k: v for k, v in extra.items() if v is not None}
        return {key: value for key, value in values.items() if value is not None}


# flag -> (what it is called in help, help)
FLAGS = {
    "partition": ("NAME", "where jobs go"),
    "account": ("NAME", "who pays"),
    "qos": ("NAME", "quality of service"),
    "constraint": ("FEATURE", "only nodes that have it"),
    "reservation": ("NAME", "nodes kept for you"),
    "gpus": ("N", "GPUs of a job"),
    "cpus": ("N", "cores of a job"),
    "mem": ("SIZE", "memory of a job, such as 32G"),
    "time": ("MINUTES", "time limit of a job"),
    "pack_minutes": ("MINUTES", "runs of a job together"),
    "max_parallel": ("N", "jobs at once"),
    "runs_per_gpu": ("K", "workers side by side on a GPU"),
}


def load(file: Path = DEFAULTS, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings file with the command line's values over it.

    Args:
        flags: keys of FLAGS; `setup`, a list of lines; `sbatch`, a list of KEY=VALUE.

    Raises:
        ConfigError: an unknown key, a value of the wrong type; names the file or flag.
    """
    if not file.is_file():
        raise ConfigError(f"--settings: {file}: no such file")
    values = read_yaml(DEFAULTS)
    for key, value in read_yaml(file).items():
        if key == "prior" and isinstance(value, dict):
            _known(f"{file}: prior", value, values["prior"])
            value = values["prior"] | value
        values[key] = value
    where = dict.fromkeys(values, str(file))
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for pair in given.pop("sbatch", ()):
        key, equals, value = pair.partition("=")
        values["sbatch"] = {**values["sbatch"], key.lstrip("-"): value if equals else True}
    for key, value in given.items():
        values[key] = value
        where[key] = "--" + key.replace("_", "-")
    return _checked(values, where)


def _checked(values: dict[str, Any], where: dict[str, str]) -> Settings:
    kinds = typing.get_type_hints(Settings)
    for key in values:
        _known(where[key], {key: None}, kinds)
    settings: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(Settings)):
        begin = where[name] if where[name].startswith("--") else f"{where[name]}: {name}"
        value = values[name]
        if typing.get_origin(kinds[name]) is dict:
            if not isinstance(value, dict):
                raise ConfigError(f"{begin}: found {value!r}, expected key: value pairs")
            if name == "prior":
                value = {k: checked(f"{begin}: {k}", v, float) for k, v in value.items()}
            settings[name] = value
            continue
        if name == "setup" and isinstance(value, str):
            raise ConfigError(f"{begin}: found {value!r}, expected a list of lines")
        value = settings[name] = checked(begin, value, kinds[name])
        least: float = 0 if name in ("gpus", "warning_seconds") else 1
        if name == "poll_seconds":
            least = 0.1
        if isinstance(value, int | float) and value < least:
            raise ConfigError(f"{begin}: found {value}, expected {least} or more")
    return Settings(**settings)


def _known(where: str, given: dict[str, Any], valid: dict[str, Any]) -> None:
    for key in given:
        if key not in valid:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, valid)}")
