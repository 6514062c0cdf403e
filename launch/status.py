"""What has become of a grid, and what is left of it: --status, --watch and the forecast.

From the files first: records and claims. squeue only tells what waits, and why.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.config import RunConfig
from benchmarks.record import Results
from paper_tables import select
from paper_tables.specs import Cell

from . import jobs, packs, view
from .claims import Claims
from .grid import Seen, State, states, survey, unique
from .packs import wall_seconds
from .settings import Settings
from .slurm import plan


@dataclass
class Grid:
    """A table's runs as they stand now."""

    folder: Path
    cells: list[Cell]
    configs: dict[str, RunConfig]
    seen: dict[str, Seen]
    queue: jobs.Queue
    found: dict[str, State]
    running: Collection[str]

    @classmethod
    def read(cls, folder: Path, cells: list[Cell]) -> "Grid":
        cells = select.decide(cells, Results(folder).read)
        configs = unique(cells)
        seen = survey(configs, Results(folder))
        queue, running = jobs.look(folder), Claims(folder).holders()
        return cls(
            folder, cells, configs, seen, queue, states(configs, seen, running, queue.runs), running
        )

    def of(self, *wanted: State) -> list[RunConfig]:
        return [config for run_id, config in self.configs.items() if self.found[run_id] in wanted]

    def estimator(self, settings: Settings) -> tuple[packs.Estimate, Collection[tuple]]:
        return packs.estimator(self.configs.values(), self.seen, settings.prior)


def show(grid: Grid, settings: Settings, console: Console) -> None:
    """Counts by row; the last error and the log of every failure; what waits, and the time left."""
    lines = []
    left = grid.of("running", "queued")
    if left:
        estimate, _ = grid.estimator(settings)
        at_once = max(1, sum(grid.found[c.run_id] == "running" for c in left))
        seconds = wall_seconds(map(estimate, left), at_once)
        lines.append(f"about {view.clock(seconds)} left for these, {at_once} at a time")
    if grid.queue.tasks:
        lines.append(f"jobs: {grid.queue.waiting()}")
    if not grid.queue.answers:
        lines.append("SLURM does not answer: queued is as last noted")
    results = Results(grid.folder)
    for config in grid.of("failed"):
        record = results.read(config.run_id) or {}
        log = f"  [{grid.folder / record['log']}]" if record.get("log") else ""
        lines.append(f"failed  {config.name}: {record.get('error')}{log}")
    gone = jobs.lost(grid.folder, [config.run_id for config in grid.of("missing")])
    by_log: dict[Path, list[str]] = {}
    for run_id, (_, log) in gone.items():
        by_log.setdefault(log, []).append(grid.configs[run_id].name)
    for log, names in by_log.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"lost  {names[0]}{more}: the job ended without a record  [{log}]")
    view.print_status(grid.cells, grid.found, lines, console)


def watch(folder: Path, cells: list[Cell], settings: Settings, console: Console) -> None:
    """The status again and again until nothing runs or waits any more."""
    while True:
        if console.is_terminal:
            console.clear()
        grid = Grid.read(folder, cells)
        show(grid, settings, console)
        if not grid.of("running", "queued"):
            return
        time.sleep(settings.poll_seconds)


def forecast(
    grid: Grid, todo: list[RunConfig], settings: Settings, cluster: str, at_once: int
) -> list[str]:
    """What a sweep would cost: packs, arrays, GPU hours, and the time if nothing had to wait."""
    if not todo:
        return []
    estimate, known = grid.estimator(settings)
    told = sum(packs.kind(config) in known for config in todo)
    basis = f"expected from {told} records' kinds and a prior for {len(todo) - told} runs"
    if cluster != "slurm":
        seconds = wall_seconds(map(estimate, todo), at_once)
        return [f"{view.clock(seconds)} at {at_once} at a time ({basis})"]
    planned = plan(todo, settings, estimate)
    lengths = planned.lengths
    longest = max(lengths)
    sizes = [len(chunk) for chunk in planned.chunks]
    gpus = max(1, settings.gpus) if settings.gpus else 0
    hours = sum(lengths) / 3600
    what = f"{hours * gpus:,.1f} GPU hours" if gpus else f"{hours * settings.cpus:,.1f} core hours"
    limit = f", {settings.max_parallel} jobs at once" if settings.max_parallel else ""
    return [
        f"{len(lengths)} packs, the longest {view.clock(longest)} (time limit {planned.minutes} "
        f"min), in {len(sizes)} job arrays of {', '.join(map(str, sizes[:8]))}"
        + (", ..." if len(sizes) > 8 else ""),
        f"{what}, {view.clock(wall_seconds(lengths, settings.max_parallel))} if nothing has to "
        f"wait{limit} ({basis})",
    ]
