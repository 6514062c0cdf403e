"""A record: what is kept of a run, checked when it is read.

A failed run has a record too, with status "failed" and the reason, and is not tried again until
someone asks for it. results/README.md describes the fields and the schema. No other module knows
what a record looks like as JSON; store.py has the folder of them. Nothing here needs torch.
"""

import dataclasses
import json
import math
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from .config import Recipe, RunConfig

SCHEMA = 1
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
