"""What people see in the terminal: live progress of a sweep, its plan, its status."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..benchmarks.config import RunConfig
from ..paper_tables.plan import Cell
from ..paper_tables.select import rounded
from .grid import STATES, State, by_row, unique
from .messages import Ended, EpochEnded, Event, Prepared, Started


class SweepView:
    """Live progress: how many runs are done, the rate, the time left, and what each worker does.

    Args:
        names: how people call the runs, by id; those that are missing go by their method.
    """

    def __init__(self, total: int, title: str, console: Console, names: Mapping[str, str]):
        self.total, self.console, self.names = total, console, names
        self.done = self.failed = 0
        self.began = time.monotonic()
        self.now: dict[int, str] = {}
        self.jobs = ""
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
        )
        self.task = self.bar.add_task(title, total=total, rate="", eta="")
        self.live = Live(self._picture(), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "SweepView":
        if self.console.is_terminal:
            self.live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.console.is_terminal:
            self.live.__exit__(*exception)

    def report(self, event: Event) -> None:
        """Show an event; without a terminal, a line for every run that ends."""
        name = self._name(event)
        if isinstance(event, Started):
            self.now[event.worker] = name
        elif isinstance(event, EpochEnded):
            done = event.epoch
            text = (
                f"{name}  epoch {done.epoch}/{done.epochs}  {done.images_per_second:,.0f} images/s"
            )
            self.now[event.worker] = text
        else:
            self._ended(event)
        self.live.update(self._picture())

    def _name(self, event: Event) -> str:
        return self.names.get(event.config.run_id, event.config.name)

    def say(self, jobs: str) -> None:
        """Show what SLURM's queue holds; without a terminal a line when that changes."""
        if jobs != self.jobs and jobs and not self.console.is_terminal:
            self.console.print(f"jobs: {jobs}", highlight=False)
        self.jobs = jobs
        self.now[-2] = f"jobs: {jobs}" if jobs else "jobs: none"
        self.live.update(self._picture())

    def _ended(self, event: Event) -> None:
        self.now.pop(event.worker, None)
        self.done += 1
        passed = time.monotonic() - self.began
        left = passed / self.done * (self.total - self.done)
        what = "steps" if isinstance(event, Prepared) else "runs"
        rate = f"{60 * self.done / passed:.1f} {what}/min"
        eta = f"about {clock(left)} left" if self.done < self.total else ""
        self.bar.update(self.task, total=self.total, completed=self.done, rate=rate, eta=eta)
        if not isinstance(event, Ended):
            return
        record, name = event.record, self._name(event)
        if not record.done:
            self.failed += 1
            lines = [f"failed  {name}: {record.error}", *(f"    {f}" for f in record.traceback)]
            for line in lines:
                self.console.print(line, style="red", markup=False, highlight=False)
        elif not self.console.is_terminal:
            self.console.print(
                f"{self.done}/{self.total}  {name}  top-1 {rounded(record.score, 1)}"
                f"  {record.seconds_total:.0f} s  {rate}  {eta}",
                markup=False,
                highlight=False,
            )

    def _picture(self) -> Group:
        lines = [Text(f"  {text}", style="dim") for _, text in sorted(self.now.items())]
        return Group(self.bar, *lines)


def clock(seconds: float) -> str:
    """Seconds as 45 s, 3 min 20 s or 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def print_plan(
    cells: list[Cell],
    todo: Iterable[RunConfig],
    states: Mapping[str, State],
    estimate: Callable[[RunConfig], float],
    console: Console,
) -> None:
    """Print the dry run: every row with its rule, its cells, and the runs that a sweep would do.

    estimate: the seconds that a run takes; a row's hours are those of its runs one after another.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("row", "backbone", "recipe", "rule"):
        table.add_column(name, no_wrap=True)
    for name in ("tasks x seeds", "done", "to run", "hours"):
        table.add_column(name, justify="right", no_wrap=True)
    to_run = {config.run_id: config for config in todo}
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.spec.name, cell.row.key), []).append(cell)
    for row_cells in rows.values():
        row = row_cells[0].row
        configs = unique(row_cells)
        config = next(iter(configs.values()), None)
        ready = sum(states[run_id] == "done" for run_id in configs)
        own = [to_run[run_id] for run_id in configs if run_id in to_run]
        undecided = [cell for cell in row_cells if cell.trials and not cell.config]
        follow = [cell.final(cell.trials[0]) for cell in undecided]
        hours = sum(map(estimate, [*own, *follow])) / 3600
        left = str(len(own)) if config else "not built"
        left += f" + {len(undecided)}" if undecided else ""
        backbone = config.backbone if config else row.backbone
        table.add_row(
            row.label,
            backbone,
            row_cells[0].source.partition(":")[0].removeprefix("recipe ") or row.recipe,
            row_cells[0].rule,
            f"{len({c.task.name for c in row_cells})} x {len({c.seed for c in row_cells})}",
            str(ready),
            left,
            f"{hours:.1f}",
        )
    console.print(table)
    console.print("rule: see docs/protocols.md; hours: one run after another", style="dim")
    if any(cell.trials and not cell.config for cell in cells):
        text = "+ N: runs that follow with the settings which win on the validation images"
        console.print(text, style="dim")


def print_status(
    cells: list[Cell], states: Mapping[str, State], lines: list[str], console: Console
) -> None:
    """Print how many runs of each row are in which state, then the lines."""
    table = Table(box=None, pad_edge=False)
    table.add_column("row", no_wrap=True)
    colours = {"done": "green", "running": "cyan", "queued": "blue", "failed": "red"}
    rows = by_row(cells, states)
    total = sum(rows.values(), Counter())
    shown = [state for state in STATES if state not in ("waiting", "unbuilt") or total[state]]
    for state in shown:
        title = "not built" if state == "unbuilt" else state
        table.add_column(title, justify="right", style=colours.get(state))
    for label, counts in rows.items():
        table.add_row(label, *(str(counts[state] or "") for state in shown))
    table.add_section()
    table.add_row("all", *(str(total[state]) for state in shown), style="bold")
    console.print(table)
    for line in lines:
        style = "red" if line.startswith("failed") else None
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
