"""The grid: the runs that a table asks for, and what has become of each."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from benchmarks.config import RunConfig
from benchmarks.record import Results
from paper_tables.specs import Cell

from .claims import Claims

State = Literal["done", "running", "failed", "missing", "unbuilt"]
STATES: tuple[State, ...] = ("done", "running", "failed", "missing", "unbuilt")


def unique(cells: Iterable[Cell]) -> dict[str, RunConfig]:
    """The runs behind the cells by id; cells that mean the same run share it.

    In an order that lets a worker keep what it has loaded: by backbone, task, then as in the table.
    """
    configs = {cell.config.run_id: cell.config for cell in cells if cell.config}
    order = sorted(configs.items(), key=lambda item: (item[1].backbone, item[1].task))
    return dict(order)


def states(ids: Iterable[str], results: Results, claims: Claims) -> dict[str, State]:
    """What has become of each run: done and failed by their records, running by a living claim."""
    running = claims.holders()
    found: dict[str, State] = {}
    for run_id in ids:
        record = results.read(run_id)
        if record is not None and record["status"] == "done":
            found[run_id] = "done"
        elif run_id in running:
            found[run_id] = "running"
        else:
            found[run_id] = "failed" if record is not None else "missing"
    return found


def by_row(cells: Iterable[Cell], found: dict[str, State]) -> dict[str, Counter]:
    """Counts of states by row label; a cell whose method is not built counts as "unbuilt"."""
    rows: dict[str, Counter] = {}
    for cell in cells:
        state = found[cell.config.run_id] if cell.config else "unbuilt"
        rows.setdefault(cell.row.label, Counter())[state] += 1
    return rows
