"""The grid: the runs that a table asks for, and what has become of each."""

import os
import re
import typing
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.config import RunConfig
from benchmarks.record import Results
from paper_tables import select
from paper_tables.specs import Cell

State = Literal["done", "running", "queued", "failed", "missing", "waiting", "unbuilt"]
STATES: tuple[State, ...] = typing.get_args(State)

# A record as it is written. Thousands are looked at for a plan, so only this much of each is read;
# where it does not fit, the record is parsed.
_HEAD = re.compile(rb'\{\s*"schema": 1,\s*"run_id": "(\w+)",\s*"status": "(done|failed)"')
_SECONDS = re.compile(rb'\n "seconds_total": ([0-9.]+)')


@dataclass(frozen=True)
class Seen:
    """What a plan needs of a record: status, seconds it took, when it was written."""

    status: str
    seconds: float
    written: float


def unique(cells: Iterable[Cell]) -> dict[str, RunConfig]:
    """The runs behind the cells by id, trials included; cells that mean the same run share it.

    In an order that lets a worker keep what it has loaded: by backbone, task, then as in the table.
    """
    configs = {config.run_id: config for cell in cells for config in cell.runs}
    order = sorted(configs.items(), key=lambda item: (item[1].backbone, item[1].task))
    return dict(order)


class Second:
    """The runs that follow when a cell's trials are done (protocol `val`)."""

    def __init__(self, cells: Iterable[Cell], todo: Iterable[RunConfig], results: Results):
        self.results, todo = results, {config.run_id for config in todo}
        self.groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in cells:
            if cell.trials and not cell.config:
                ids = tuple(trial.run_id for trial in cell.trials)
                self.groups.setdefault(ids, []).append(cell)
        self.left = {ids: todo.intersection(ids) for ids in self.groups}
        self.spared = 0  # runs that turned out to have a record

    def likely(self) -> list[RunConfig]:
        """A run like each of those to come: what to check, to load, and to expect."""
        cells = [cell for own in self.groups.values() for cell in own]
        found = (replace(c, config=c.final(c.trials[0]), trials=()) for c in cells)
        return list(unique(found).values())

    def after(self, trial: RunConfig) -> list[RunConfig]:
        """The runs without a record that are known now that this one has ended."""
        ready = []
        for ids, left in self.left.items():
            if trial.run_id in left:
                left.discard(trial.run_id)
                ready += [] if left else self.groups[ids]
        decided = [cell for cell in select.decide(ready, self.results.read) if cell.config]
        found = unique(replace(cell, trials=()) for cell in decided)
        new = [config for run_id, config in found.items() if not self.results.read(run_id)]
        self.spared += len(found) - len(new)
        return new


def survey(ids: Collection[str], results: Results) -> dict[str, Seen]:
    """The records of these runs that exist, at a glance."""
    try:
        there = {name.removesuffix(".json") for name in os.listdir(results.runs)}
    except FileNotFoundError:
        return {}
    found = {run_id: _glance(run_id, results) for run_id in ids if run_id in there}
    return {run_id: seen for run_id, seen in found.items() if seen}


def _glance(run_id: str, results: Results) -> Seen | None:
    try:
        with open(results.path(run_id), "rb") as file:
            content, written = file.read(), os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    head, end = _HEAD.match(content), content.rfind(b'\n "seconds_total"')
    seconds = _SECONDS.match(content, max(end, 0))
    if head and seconds and head[1] == run_id.encode() and content.endswith(b"\n}\n"):
        return Seen(head[2].decode(), float(seconds[1]), written)
    record = results.read(run_id)
    if record is None:
        return None
    return Seen(record["status"], float(record.get("seconds_total", 0)), written)


def states(
    ids: Iterable[str], seen: dict[str, Seen], running: Collection[str], queued: dict[str, float]
) -> dict[str, State]:
    """What has become of each run: by its record, a living claim, a job that waits for its turn.

    Args:
        running: runs with a living claim.
        queued: runs that a waiting or running job will do, and when that was submitted. A record of
            a failure is older than that where the run is to be tried again.
    """
    found: dict[str, State] = {}
    for run_id in ids:
        record = seen.get(run_id)
        if record is not None and record.status == "done":
            found[run_id] = "done"
        elif run_id in running:
            found[run_id] = "running"
        elif run_id in queued and (record is None or record.written < queued[run_id]):
            found[run_id] = "queued"
        else:
            found[run_id] = "failed" if record is not None else "missing"
    return found


def by_row(cells: Iterable[Cell], found: dict[str, State]) -> dict[str, Counter]:
    """Counts of states by row label: of cells and of their trials, each of these once.

    A cell whose trials are not done is "waiting", one whose method is not built "unbuilt".
    """
    rows: dict[str, Counter] = {}
    tried = set()
    for cell in cells:
        counts = rows.setdefault(cell.row.label, Counter())
        if cell.config:
            counts[found[cell.config.run_id]] += 1
        else:
            counts["waiting" if cell.trials else "unbuilt"] += 1
        new = {(cell.row.key, trial.run_id) for trial in cell.trials} - tried
        counts.update(found[run_id] for _, run_id in new)
        tried |= new
    return rows
