"""A folder of records: one JSON file a run; a run is done when its file exists.

    <results>/runs/<run_id>.json        the records
    <results>/aside/<run_id>.<n>.json   records of runs made again (--rerun); nothing reads them

A file is written whole or not at all, and the first record of a finished run stays. Nothing here
needs torch.
"""

import contextlib
import itertools
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import drafting, open_regular, read_bytes, remove_drafts
from .record import OtherRun, RecordError, RunRecord, Status

MOST_OF_A_RECORD = 2**26  # bytes


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
