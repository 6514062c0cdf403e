"""Settings for a SLURM cluster: launch/slurm.yaml or a file like it, then the command line."""

import argparse
import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.config import ConfigError
from benchmarks.recipes import read_yaml
from methods.registry import checked, nearest

DEFAULTS = Path(__file__).with_name("slurm.yaml")


@dataclass(frozen=True)
class Settings:
    """What launch/slurm.yaml explains."""

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
        values = {
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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's part of the settings."""
    group = parser.add_argument_group("SLURM", "defaults and what they mean: launch/slurm.yaml")
    group.add_argument("--settings", type=Path, default=DEFAULTS, metavar="FILE", help="instead")
    for name, (kind, text) in FLAGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar=kind, help=text)
    group.add_argument("--setup", action="append", metavar="LINE", help="shell line before work")
    group.add_argument(
        "--sbatch", action="append", metavar="KEY=VALUE", help="any other option of sbatch"
    )


def load(arguments: argparse.Namespace) -> Settings:
    """The settings file with the command line's values over it.

    Raises:
        ConfigError: an unknown key, a value of the wrong type; names the file or flag.
    """
    file = arguments.settings
    if not file.is_file():
        raise ConfigError(f"--settings: {file}: no such file")
    values = read_yaml(DEFAULTS)
    for key, value in read_yaml(file).items():
        if key == "prior" and isinstance(value, dict):
            _known(f"{file}: prior", value, values["prior"])
            value = values["prior"] | value
        values[key] = value
    where = dict.fromkeys(values, str(file))
    for key in FLAGS:
        if getattr(arguments, key) is not None:
            values[key] = getattr(arguments, key)
            where[key] = "--" + key.replace("_", "-")
    if arguments.setup is not None:
        values["setup"] = arguments.setup
    for pair in arguments.sbatch or ():
        key, equals, value = pair.partition("=")
        values["sbatch"] = {**values["sbatch"], key.lstrip("-"): value if equals else True}
    return _checked(values, where)


def _checked(values: dict[str, Any], where: dict[str, str]) -> Settings:
    kinds = typing.get_type_hints(Settings)
    for key in values:
        _known(where[key], {key: None}, kinds)
    found = {}
    for name in (f.name for f in dataclasses.fields(Settings)):
        begin = where[name] if where[name].startswith("--") else f"{where[name]}: {name}"
        value = values[name]
        if typing.get_origin(kinds[name]) is dict:
            if not isinstance(value, dict):
                raise ConfigError(f"{begin}: found {value!r}, expected key: value pairs")
            if name == "prior":
                value = {k: checked(f"{begin}: {k}", v, float) for k, v in value.items()}
            found[name] = value
            continue
        if name == "setup" and isinstance(value, str):
            raise ConfigError(f"{begin}: found {value!r}, expected a list of lines")
        found[name] = checked(begin, value, kinds[name])
        least = 0 if name in ("gpus", "warning_seconds") else 1
        if name == "poll_seconds":
            least = 0.1
        if isinstance(found[name], int | float) and found[name] < least:
            raise ConfigError(f"{begin}: found {found[name]}, expected {least} or more")
    return Settings(**found)


def _known(where: str, given: dict[str, Any], valid: dict[str, Any]) -> None:
    for key in given:
        if key not in valid:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, valid)}")
