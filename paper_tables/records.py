"""The records of a results folder, read once and sorted: done, failed, or kept apart.

A file that is damaged, of another schema, a duplicate, or whose config does not give its run id is
kept apart, with the reason in one line: no table counts it.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from ..benchmarks.record import RecordError, RunRecord
from ..benchmarks.store import Results

# run id -> what has changed since the run was made: "methods/lora.py", "weights", "pixels"
Outdated = dict[str, tuple[str, ...]]


@dataclass
class Records:
    """Records by run id, without curves; `apart` maps the name of each other file to the reason."""

    folder: Path
    done: dict[str, RunRecord] = field(default_factory=dict)
    failed: dict[str, RunRecord] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)

    def get(self, run_id: str) -> RunRecord | None:
        """The run's record, done or failed."""
        return self.done.get(run_id) or self.failed.get(run_id)

    @property
    def dirty(self) -> list[str]:
        """Run ids of finished runs whose code had uncommitted changes, or no known commit."""
        return [run_id for run_id, record in self.done.items() if record.dirty]

    def without_dirty(self) -> "Records":
        """The same, with the runs of uncommitted code kept apart too."""
        dirty = dict.fromkeys(self.dirty, "code not committed")
        return Records(
            self.folder,
            {run_id: record for run_id, record in self.done.items() if run_id not in dirty},
            self.failed,
            self.apart | {f"{run_id}.json": reason for run_id, reason in dirty.items()},
        )

    @property
    def state(self) -> str:
        """Short hash of the finished runs' ids: which state of the folder a report is about."""
        return hashlib.sha256(" ".join(sorted(self.done)).encode()).hexdigest()[:12]


def scan(folder: Path) -> Records:
    """Read every record under `folder`/runs."""
    records = Records(Path(folder))
    for path, record in Results(records.folder).all():
        if isinstance(record, RecordError):
            records.apart[path.name] = str(record)
        elif record.done:
            records.done[path.stem] = record
        else:
            records.failed[path.stem] = record
    return records
