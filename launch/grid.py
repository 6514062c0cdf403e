"""The grid: the runs that a table asks for, and what has become of each."""

import typing
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .. import methods
from ..benchmarks.config import RunConfig
from ..benchmarks.store import Glance, Results
from ..paper_tables import select
from ..paper_tables.marks import outdated_code
from ..paper_tables.plan import Cell
from ..paper_tables.records import Outdated
from .claims import Claims, Holder
from .forecast import Estimate, estimator
from .slurm import notes, squeue

State = Literal["done", "running", "queued", "failed", "missing", "waiting", "unbuilt"]
STATES: tuple[State, ...] = typing.get_args(State)


@dataclass
class Grid:
    """A request's runs as they stand now.

    Attributes:
        configs: by run id, trials included; names: how people call them: row, task, seed.
        glances: of the records that exist; holders: who does what now.
        states: of every run.
    """

    folder: Path
    cells: list[Cell]
    configs: dict[str, RunConfig]
    names: dict[str, str]
    glances: dict[str, Glance]
    queue: notes.Queue
    holders: Mapping[str, Holder]
    states: dict[str, State]

    @classmethod
    def survey(cls, folder: Path, cells: list[Cell]) -> "Grid":
        """Look at the records, the claims and the queue."""
        results = Results(folder)
        cells = select.decide(cells, results.read, results.ids())
        configs = unique(cells)
        glances = results.glance(configs)
        queue, holders = notes.look(folder), Claims(folder, squeue).holders()
        return cls(
            folder=folder,
            cells=cells,
            configs=configs,
            names=names_of(cells),
            glances=glances,
            queue=queue,
            holders=holders,
            states=states(configs, glances, holders, queue.runs),
        )

    def of(self, *wanted: State) -> list[RunConfig]:
        """The runs in one of these states."""
        return [config for run_id, config in self.configs.items() if self.states[run_id] in wanted]

    def to_do(self, retry_failed: bool) -> list[RunConfig]:
        """The runs without a result, also those that another command does now."""
        open_states: tuple[State, ...] = ("missing", "running", "queued")
        return self.of(*open_states, "failed") if retry_failed else self.of(*open_states)

    def estimator(self, prior: dict[str, float]) -> tuple[Estimate, Collection[tuple]]:
        """An estimate of the seconds that a run takes, and the kinds that past runs tell about."""
        return estimator(self.configs.values(), self.glances, prior)

    @property
    def failed_cells(self) -> list[Cell]:
        """The cells that have no number because a run of theirs failed."""
        failed = {run_id for run_id, state in self.states.items() if state == "failed"}
        return [
            cell
            for cell in self.cells
            if failed.intersection(
                [cell.config.run_id] if cell.config else [trial.run_id for trial in cell.trials]
            )
        ]

    def failed_with_other_code(self) -> list[RunConfig]:
        """The failed runs whose method's files have changed since: perhaps they are mended."""
        return [
            config
            for config in self.of("failed")
            if (noted := self.glances[config.run_id].method_code) is not None
            and noted != methods.code_hash(config.method)
        ]

    @property
    def outdated_code(self) -> Outdated:
        """The finished runs whose method's files are others now; see methods/registry.py."""
        return outdated_code(
            (self.configs[run_id], glance.method_code)
            for run_id, glance in self.glances.items()
            if glance.status == "done"
        )


def unique(cells: Iterable[Cell]) -> dict[str, RunConfig]:
    """The runs behind the cells by id, trials included; cells that mean the same run share it.

    In an order that lets a worker keep what it has loaded: by backbone, task, then as in the table.
    """
    configs = {config.run_id: config for cell in cells for config in cell.runs}
    order = sorted(configs.items(), key=lambda item: (item[1].backbone, item[1].task))
    return dict(order)


def names_of(cells: Iterable[Cell]) -> dict[str, str]:
    """How people call the runs of these cells: by the first row that they belong to."""
    names: dict[str, str] = {}
    for cell in cells:
        for config in cell.runs:
            names.setdefault(config.run_id, config.name_in(cell.row.label))
    return names


class Followers:
    """The runs that follow when a cell's trials are done (protocol `val`)."""

    def __init__(self, grid: Grid, todo: Iterable[RunConfig]):
        self.results, self.names = Results(grid.folder), grid.names
        ids_todo = {config.run_id for config in todo}
        self.groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in grid.cells:
            if cell.trials and not cell.config:
                ids = tuple(trial.run_id for trial in cell.trials)
                self.groups.setdefault(ids, []).append(cell)
        self.left = {ids: ids_todo.intersection(ids) for ids in self.groups}
        self.spared = 0  # runs that turned out to have a record

    def likely(self) -> list[RunConfig]:
        """One run like each of those to come, to check, load and estimate what they will need."""
        cells = [cell for group in self.groups.values() for cell in group]
        likely = (replace(c, config=c.final(c.trials[0]), trials=()) for c in cells)
        return list(unique(likely).values())

    def after(self, trial: RunConfig) -> list[RunConfig]:
        """The runs without a record that are decided now that this trial has ended."""
        ready = []
        for ids, left in self.left.items():
            if trial.run_id in left:
                left.discard(trial.run_id)
                ready += [] if left else self.groups[ids]
        decided = select.decide(ready, self.results.read, self.results.ids())
        decided = [cell for cell in decided if cell.config]
        cells = [replace(cell, trials=()) for cell in decided]
        configs = unique(cells)
        self.names.update(names_of(cells))
        new = [config for run_id, config in configs.items() if not self.results.read(run_id)]
        self.spared += len(configs) - len(new)
        return new


def states(
    ids: Iterable[str],
    glances: Mapping[str, Glance],
    running: Collection[str],
    queued: Mapping[str, float],
) -> dict[str, State]:
    """The state of each run, from its record, a living claim, or a job that waits.

    Args:
        running: runs with a living claim.
        queued: runs that a waiting or running job will do, and when that was submitted. A record of
            a failure is older than that where the run is to be tried again.
    """
    states: dict[str, State] = {}
    for run_id in ids:
        record = glances.get(run_id)
        if record is not None and record.status == "done":
            states[run_id] = "done"
        elif run_id in running:
            states[run_id] = "running"
        elif run_id in queued and (record is None or record.written < queued[run_id]):
            states[run_id] = "queued"
        else:
            states[run_id] = "failed" if record is not None else "missing"
    return states


def by_row(cells: Iterable[Cell], states: Mapping[str, State]) -> dict[str, Counter[State]]:
    """Counts of states by row label: of cells and of their trials, each of these once.

    A cell whose trials are not done is "waiting", one whose method is not built "unbuilt".
    """
    rows: dict[str, Counter[State]] = {}
    counted: set[tuple[str, str]] = set()
    for cell in cells:
        counts = rows.setdefault(cell.row.label, Counter())
        if cell.config:
            counts[states[cell.config.run_id]] += 1
        else:
            counts["waiting" if cell.trials else "unbuilt"] += 1
        new = {(cell.row.key, trial.run_id) for trial in cell.trials} - counted
        counts.update(states[run_id] for _, run_id in new)
        counted |= new
    return rows
