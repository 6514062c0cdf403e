"""The records of a results folder, read once and sorted: done, failed, or kept apart.

Kept apart, with the reason in one line, and never counted in a table: a file that is damaged, of
another schema, a duplicate, or whose config is not what its run id stands for.
"""

import hashlib
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmarks.config import Recipe, RunConfig
from benchmarks.record import SCHEMA

Record = dict[str, Any]


@dataclass
class Records:
    """Records by run id; `apart` maps the file name of each other one to the reason."""

    folder: Path
    done: dict[str, Record] = field(default_factory=dict)
    failed: dict[str, Record] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)

    def get(self, run_id: str) -> Record | None:
        """The run's record, done or failed."""
        return self.done.get(run_id) or self.failed.get(run_id)

    @property
    def dirty(self) -> list[str]:
        """Run ids of finished runs whose code had uncommitted changes, or no known commit."""
        return [run_id for run_id, record in self.done.items() if is_dirty(record)]

    def without_dirty(self) -> "Records":
        """The same, with the runs of uncommitted code kept apart too."""
        dirty = dict.fromkeys(self.dirty, "code not committed")
        return Records(
            self.folder,
            {run_id: record for run_id, record in self.done.items() if run_id not in dirty},
            self.failed,
            self.apart | {f"{run_id}.json": reason for run_id, reason in dirty.items()},
        )


def is_dirty(record: Record) -> bool:
    return record.get("git_dirty") is not False


def scan(folder: Path) -> Records:
    """Read every record under `folder`/runs, without its curve, which no table needs."""
    found = Records(Path(folder))
    recipes: dict[Recipe, dict[str, Any]] = {}  # equal ones are kept once
    runs = found.folder / "runs"
    for name in sorted(os.listdir(runs)) if runs.is_dir() else []:
        if name.startswith(".") or not name.endswith(".json"):
            continue  # a draft of a record that is being written
        path = runs / name
        try:
            record = _checked(path, recipes)
        except ValueError as reason:
            found.apart[path.name] = str(reason)
            continue
        (found.done if record["status"] == "done" else found.failed)[path.stem] = record
    return found


def _checked(path: Path, recipes: dict[Recipe, dict[str, Any]]) -> Record:
    try:
        record = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"damaged: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError("damaged: not a record")
    if record.get("schema") != SCHEMA:
        raise ValueError(f"schema {record.get('schema')!r}; this code reads {SCHEMA}")
    if record.get("status") not in ("done", "failed"):
        raise ValueError(f"damaged: status {record.get('status')!r}")
    run_id = record.get("run_id")
    if run_id != path.stem:
        beside = isinstance(run_id, str) and path.with_name(f"{run_id}.json").exists()
        raise ValueError(f"duplicate of {run_id}.json" if beside else f"holds the run {run_id!r}")
    try:
        config = RunConfig(**{**record["config"], "recipe": Recipe(**record["config"]["recipe"])})
        own = config.run_id
    except (KeyError, TypeError) as error:
        raise ValueError(f"damaged: config: {error}") from None
    if own != run_id:
        raise ValueError(f"its config is that of the run {own}")
    key = "top1_last" if config.eval_split == "test" else "top1_val"
    if record["status"] == "done" and not _is_percentage(record.get(key)):
        raise ValueError(f"damaged: {key} {record.get(key)!r}")
    for part in (record, record["config"]):  # most of the text is in all of them
        part.update({k: sys.intern(v) for k, v in part.items() if type(v) is str})
    record["config"]["recipe"] = recipes.setdefault(config.recipe, record["config"]["recipe"])
    record.pop("curve", None)  # half of its size, and there may be thousands
    return record


def _is_percentage(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= 100


def fingerprint(records: Records) -> str:
    """Short hash of the finished runs' ids: which state of the folder a report was made from."""
    return hashlib.sha256(" ".join(sorted(records.done)).encode()).hexdigest()[:12]
