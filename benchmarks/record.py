"""Records: one JSON file per run, written once and atomically; a run is done when its file exists.

    <results>/runs/<run_id>.json        the records
    <results>/aside/<run_id>.<n>.json   records of runs made again (--rerun); nothing reads them

A failed run has a record too, with status "failed" and the reason, and is not tried again until
someone asks for it. results/README.md describes the fields and the schema. No other module knows
what a record looks like on disk. Nothing here needs torch.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import sys
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from .config import Recipe, RunConfig
from .files import drafting, open_regular, read_bytes, remove_drafts

SCHEMA = 1
MOST_OF_A_RECORD = 2**26  # bytes
Status = Literal["done", "failed"]
# why a run failed, for programs; the text for people is `error`
Reason = Literal[
    "diverged",  # the loss was not finite: a result of its settings, not an accident
    "bad_input",  # data, weights or a device were not what they should be
    "worker_died",  # its process was killed
    "time_limit",  # a job's time was not enough for it
    "error",  # anything else
]


class RecordError(ValueError):
    """A file that is no valid record; says why in one line."""


class OtherRun(RecordError):
    """A file that holds another run than its name says."""

    def __init__(self, run_id: Any):
        super().__init__(f"holds the run {run_id!r}")
        self.run_id = run_id if isinstance(run_id, str) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What is kept of a run. None: unknown, or not for this kind of run. See results/README.md."""

    schema: int = SCHEMA
    run_id: str
    status: Status
    error: str | None = None
    reason: Reason | None = None
    traceback: tuple[str, ...] = ()
    config: RunConfig
    top1_last: float | None = None
    top1_best_test: float | None = None
    top1_best_10: float | None = None
    top1_val: float | None = None
    curve: tuple[dict[str, Any], ...] = ()
    params_peft: int | None = None
    params_head: int | None = None
    params_total: int | None = None
    seconds_startup: float | None = None
    seconds_data: float | None = None
    seconds_train: float | None = None
    seconds_evaluate: float | None = None
    images_per_second: float | None = None
    peak_memory_mb: float | None = None
    gflops_per_image: float | None = None
    data_fingerprint: str | None = None
    data_variant: str | None = None
    weights_fingerprint: str | None = None
    weights_source: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    micro_batch: int | None = None
    fast_paths: tuple[str, ...] | None = None
    precision: str | None = None
    seconds_total: float | None = None
    started: str | None = None
    ended: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    version: str | None = None
    code: str | None = None
    method_code: str | None = None
    plugins: dict[str, str] = dataclasses.field(default_factory=dict)
    python: str | None = None
    torch: str | None = None
    timm: str | None = None
    device: str | None = None
    threads: int | None = None
    host: str | None = None
    slurm_job_id: str | None = None
    log: str | None = None

    @classmethod
    def failed(
        cls, config: RunConfig, error: str, reason: Reason = "error", **more: Any
    ) -> "RunRecord":
        """The record of a run that did not finish; `error` says why in one line."""
        return cls(
            run_id=config.run_id,
            status="failed",
            config=config,
            error=error,
            reason=reason,
            **more,
        )

    def _check_scores(self) -> None:
        """Raise RecordError unless the scores of a finished run are percentages that can be."""
        needed = "top1_last" if self.config.eval_split == "test" else "top1_val"
        for key in ("top1_last", "top1_best_10", "top1_best_test", "top1_val"):
            value = getattr(self, key)
            if (value is not None or key == needed) and not _is_percentage(value):
                raise RecordError(f"damaged: {key} {value!r}")
        order = [self.top1_last, self.top1_best_10, self.top1_best_test]
        known = [value for value in order if value is not None]
        if known != sorted(known):
            raise RecordError(f"damaged: the best of its scores {known} is not the last")

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def score(self) -> float:
        """Accuracy after the last epoch, on the split that this run was scored on; NaN if none."""
        score = self.top1_val if self.config.eval_split == "val" else self.top1_last
        return math.nan if score is None else score

    @property
    def dirty(self) -> bool:
        """Whether its code had uncommitted changes, or nobody knows whether it had."""
        return self.git_dirty is not False

    def replace(self, **changed: Any) -> "RunRecord":
        """The same record with some fields changed."""
        return dataclasses.replace(self, **changed)

    def to_json(self) -> str:
        """The record as its file holds it; a failed record leaves out unknown fields."""
        content: dict[str, Any] = {}
        for name in FIELDS:
            value = getattr(self, name)
            if name == "config":
                value = value.to_dict()
            elif self.status == "failed" and name not in _ALWAYS and value in (None, (), {}):
                continue
            content[name] = value
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, content: bytes, run_id: str, curve: bool = True) -> "RunRecord":
        """The record of this run from its file's content; missing fields get their defaults.

        Args:
            curve: False leaves the curve out, which is half of a record.

        Raises:
            RecordError: it is damaged, of another schema or another run, or its config is that of
                another run.
        """
        try:
            fields = orjson.loads(content)
        except ValueError as error:
            raise RecordError(f"damaged: not JSON ({error})") from None
        if not isinstance(fields, dict):
            raise RecordError("damaged: not a record")
        if fields.get("schema") != SCHEMA:
            raise RecordError(f"schema {fields.get('schema')!r}; this code reads {SCHEMA}")
        if fields.get("status") not in typing.get_args(Status):
            raise RecordError(f"damaged: status {fields.get('status')!r}")
        if fields.get("run_id") != run_id:
            raise OtherRun(fields.get("run_id"))
        values = {name: fields[name] for name in FIELDS if name in fields}
        if not curve:
            values.pop("curve", None)
        try:
            values["config"] = _config(fields["config"])
            config_id = values["config"].run_id
        except (KeyError, TypeError) as error:
            raise RecordError(f"damaged: config: {error}") from None
        if config_id != run_id:
            raise RecordError(f"its config is that of the run {config_id}")
        if values["config"].eval_every == 1 and "top1_best_10" not in fields:  # of older code
            values["top1_best_10"] = best_of(fields.get("curve") or (), 10)
        for name in _TUPLES & values.keys():
            values[name] = tuple(values[name] or ())
        values |= {k: sys.intern(v) for k, v in values.items() if type(v) is str}
        record = cls(**values)
        if record.done:
            record._check_scores()
        if record.status == "failed" and record.reason is None:
            record = record.replace(reason=_reason_of_old(record.error))
        return record


FIELDS = tuple(field.name for field in dataclasses.fields(RunRecord))
_ALWAYS = ("schema", "run_id", "status", "error", "reason", "config")
_TUPLES = {"traceback", "curve", "mean", "std", "fast_paths"}


def best_of(curve: Sequence[Mapping[str, Any]], every: int) -> float | None:
    """The best test accuracy of every so many epochs and the last; None if one was not scored."""
    looked = [p for p in curve if p["epoch"] % every == 0 or p is curve[-1]]
    if not all("top1" in point for point in looked):
        return None
    return max((float(point["top1"]) for point in looked), default=None)


def _config(values: dict[str, Any]) -> RunConfig:
    """A record's config, without the checks of `RunConfig.from_dict`: thousands are read."""
    recipe = _shared(Recipe(**values["recipe"]))
    words = {key: sys.intern(value) for key, value in values.items() if type(value) is str}
    return RunConfig(**{**values, **words, "recipe": recipe})


_recipes: dict[Recipe, Recipe] = {}


def _shared(recipe: Recipe) -> Recipe:
    """One object for equal recipes: thousands of runs share a few."""
    return _recipes.setdefault(recipe, recipe)


def _is_percentage(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= 100


def _reason_of_old(error: str | None) -> Reason:
    """The reason of a record without that field (older code), from how its error text begins."""
    text = str(error)
    if text.startswith("Diverged"):
        return "diverged"
    if text.startswith("the worker process died"):
        return "worker_died"
    return "time_limit" if text.startswith("not done within the job's") else "error"


@dataclass(frozen=True, slots=True)
class Glance:
    """What a plan needs of a record; `written`: when, by the clock of the file system."""

    status: Status
    seconds: float
    written: float
    method_code: str | None = None
    weights_fingerprint: str | None = None
    data_fingerprint: str | None = None


def _content(path: Path) -> bytes:
    return read_bytes(path, MOST_OF_A_RECORD)


def _record_in(path: Path, run_id: str) -> RunRecord | None:
    """The run's record in a file; None if it holds no valid one."""
    try:
        return RunRecord.from_json(_content(path), run_id)
    except (OSError, RecordError):
        return None


class Results:
    """A folder of records."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.runs = self.folder / "runs"

    def path(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.json"

    def read(self, run_id: str) -> RunRecord | None:
        """The record, or None if there is no valid one."""
        return _record_in(self.path(run_id), run_id)

    def write(self, record: RunRecord) -> Path:
        """Write a record, whole or not at all; the first record of a finished run stays.

        The last step is a hard link, which fails where a file is. So a process that was held up
        between its last look and this step, for however long, replaces nothing but a failure.
        """
        path = self.path(record.run_id)
        with drafting(path, record.to_json()) as draft:
            while True:
                try:
                    os.link(draft, path)
                    return path
                except FileExistsError:
                    if not self._make_way(path, record.run_id):
                        return path

    def _make_way(self, path: Path, run_id: str) -> bool:
        """Move what is there out of the way, unless it is the record of a finished run."""
        there = self.read(run_id)
        if there is not None and there.done:
            return False
        aside = self.put_aside(run_id)
        moved = _record_in(aside, run_id) if aside else None
        if aside is not None and moved is not None:  # else it cannot be read: it stays aside
            if moved.done:  # written since we looked: back with it
                with contextlib.suppress(FileExistsError):
                    os.link(aside, path)
            aside.unlink()
        return True

    def put_aside(self, run_id: str) -> Path | None:
        """Move a record out of the way, so that its run is done again; nothing is overwritten.

        Returns:
            Where it is now; None if another process was faster.
        """
        aside = self.folder / "aside"
        aside.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = aside / f"{run_id}.{number}.json"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                continue
            try:
                os.rename(self.path(run_id), path)
            except FileNotFoundError:
                path.unlink()
                return None
            return path
        raise AssertionError("numbers have ended")

    def clean(self) -> None:
        """Remove drafts left by killed writers."""
        remove_drafts(self.runs)

    def files(self) -> list[Path]:
        """The files that should be records, by name, without drafts."""
        names = sorted(os.listdir(self.runs)) if self.runs.is_dir() else []
        return [self.runs / n for n in names if n.endswith(".json") and not n.startswith(".")]

    def ids(self) -> set[str]:
        """The ids of all runs with a record, done or failed."""
        return {path.stem for path in self.files()}

    def all(self) -> Iterator[tuple[Path, RunRecord | RecordError]]:
        """Every file that should be a record, with the record without its curve, or what is wrong.

        Thousands are read: the curve is half of each, and no table needs it.
        """
        for path in self.files():
            try:
                yield path, RunRecord.from_json(_content(path), path.stem, curve=False)
            except OSError as error:
                yield path, RecordError(f"cannot be read: {error.strerror}")
            except OtherRun as error:
                beside = error.run_id and self.path(error.run_id).exists()
                yield path, RecordError(f"duplicate of {error.run_id}.json") if beside else error
            except RecordError as error:
                yield path, error

    def glance(self, ids: Collection[str]) -> dict[str, Glance]:
        """The records of these runs that exist, as much of each as a plan needs."""
        there = self.ids()
        glances = {run_id: self._glance(run_id) for run_id in ids if run_id in there}
        return {run_id: glance for run_id, glance in glances.items() if glance}

    def _glance(self, run_id: str) -> Glance | None:
        try:
            with open_regular(self.path(run_id), MOST_OF_A_RECORD) as file:
                raw, written = file.read(), os.fstat(file.fileno()).st_mtime
            record = RunRecord.from_json(raw, run_id, curve=False)
        except (OSError, RecordError):
            return None
        return Glance(
            record.status,
            record.seconds_total or 0.0,
            written,
            record.method_code,
            record.weights_fingerprint,
            record.data_fingerprint,
        )
