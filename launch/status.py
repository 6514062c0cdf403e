"""What is left to do: --status, --watch and the forecast.

From the files first: records and claims. squeue only tells what waits, and why.
"""

import time
from pathlib import Path

from rich.console import Console

from ..benchmarks.config import RunConfig
from ..benchmarks.store import Results
from ..paper_tables.plan import Cell
from . import view
from .forecast import kind, wall_seconds
from .grid import Grid
from .slurm import arrays, notes
from .slurm.settings import Settings


def show(grid: Grid, settings: Settings, console: Console) -> None:
    """Print counts by row, the error and log of every failure, why jobs wait, and the time left."""
    lines = []
    left = grid.of("running", "queued")
    if left:
        estimate, _ = grid.estimator(settings.prior)
        at_once = max(1, sum(grid.states[c.run_id] == "running" for c in left))
        seconds = wall_seconds(map(estimate, left), at_once)
        lines.append(f"about {view.clock(seconds)} left for these, {at_once} at a time")
    if grid.queue.tasks:
        lines.append(f"jobs: {grid.queue.waiting()}")
    if not grid.queue.answers:
        lines.append("SLURM does not answer: queued is as last noted")
    results = Results(grid.folder)
    for config in grid.of("failed"):
        record = results.read(config.run_id)
        if record is not None:
            log = f"  [{grid.folder / record.log}]" if record.log else ""
            lines.append(f"failed  {grid.names[config.run_id]}: {record.error}{log}")
            lines += [f"    {frame}" for frame in record.traceback]
    gone = notes.lost(grid.folder, [config.run_id for config in grid.of("missing")])
    by_log: dict[Path, list[str]] = {}
    for run_id, (_, log_file) in gone.items():
        by_log.setdefault(log_file, []).append(grid.names[run_id])
    for log_file, names in by_log.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"lost  {names[0]}{more}: the job ended without a record  [{log_file}]")
    view.print_status(grid.cells, grid.states, lines, console)


def watch(folder: Path, cells: list[Cell], settings: Settings, console: Console) -> None:
    """Print the status repeatedly until no run is running or queued."""
    while True:
        if console.is_terminal:
            console.clear()
        grid = Grid.survey(folder, cells)
        show(grid, settings, console)
        if not grid.of("running", "queued"):
            return
        time.sleep(settings.poll_seconds)


def forecast(
    grid: Grid, todo: list[RunConfig], settings: Settings, cluster: str, at_once: int
) -> list[str]:
    """Say what a sweep would cost: packs, arrays, GPU hours, and the time if no job had to wait."""
    if not todo:
        return []
    estimate, known = grid.estimator(settings.prior)
    past = sum(kind(config) in known for config in todo)
    basis = f"estimated from past runs for {past}, from defaults for {len(todo) - past}"
    if cluster != "slurm":
        seconds = wall_seconds(map(estimate, todo), at_once)
        return [f"{view.clock(seconds)} at {at_once} at a time ({basis})"]
    planned = arrays.arrange(todo, settings, estimate)
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
