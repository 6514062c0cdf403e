"""Count the trained parameters of every row of Tables 2-6 and compare with the printed Params.(M).

Every row is counted in models that are built (without storage), with the options of its spec and
of its recipe for each task, averaged over the benchmark's tasks, with the head or without as the
row's spec says. Verdicts:

equal                     to two decimals, with options known from code or published figures
equal, solved backwards   to two decimals, with options found from the printed number itself
differs                   by how much, and what is likely behind it
"""

import pickle
from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table

from .. import methods
from . import specs
from .plan import Cell, TableRequest, plan
from .table import printed_numbers

EQUAL, SOLVED, DIFFERS = VERDICTS = ("equal", "equal, solved backwards", "differs")
STYLES = {EQUAL: "green", SOLVED: "yellow", DIFFERS: "red"}


@dataclass(frozen=True)
class AuditLine:
    """A row of a table with its numbers, in millions of parameters."""

    table: str
    row: str
    label: str
    method: str
    backbone: str
    options: str  # those that are not the method's default and change the count
    counted: str  # trainable: with the mean head; method: without
    printed_m: float
    computed_m: float
    difference_m: float  # computed - printed
    verdict: str
    remark: str


def audit() -> list[AuditLine]:
    """Every row of Tables 2-6, in their order."""
    profile = specs.profile("paper")
    lines = []
    for name in specs.every():
        spec = specs.spec(name)
        printed = printed_numbers(spec)
        if not printed:  # Fig. 2 prints no counts
            continue
        rows: dict[str, list[Cell]] = {}
        for cell in plan(TableRequest(spec, profile, seeds=(0,))):
            rows.setdefault(cell.row.key, []).append(cell)
        lines += [_line(cells, printed[key, "params_m"]) for key, cells in rows.items()]
    return lines


def _line(cells: list[Cell], printed: float) -> AuditLine:
    """The line of one row from its cells, one a task."""
    row, spec = cells[0].row, cells[0].spec
    chosen = [cell.config.options for cell in cells if cell.config]
    for option, mixture in row.audit.items():  # whichever task has which value
        values = [value for value, tasks in mixture.items() for _ in range(tasks)]
        chosen = [given | {option: value} for given, value in zip(chosen, values, strict=True)]
    total = 0
    for cell, options in zip(cells, chosen, strict=True):
        method, features = _count(row.backbone, row.method, options)
        head = cell.task.num_classes * (features + 1) if row.params == "trainable" else 0
        total += method + head
    computed = total / len(cells) / 1e6
    verdict = DIFFERS
    if f"{computed:.2f}" == f"{printed:.2f}":
        verdict = SOLVED if row.setting == "solved" else EQUAL
    return AuditLine(
        table=spec.name,
        row=row.key,
        label=row.label,
        method=row.method,
        backbone=row.backbone,
        options=_in_words(row.backbone, row.method, chosen),
        counted=row.params,
        printed_m=printed,
        computed_m=round(computed, 6),
        difference_m=round(computed - printed, 6),
        verdict=verdict,
        remark=row.remark,
    )


def _count(backbone: str, method: str, options: dict[str, Any]) -> tuple[int, int]:
    """What a method trains without the head, and the features that the head sees."""
    pairs = sorted(options.items())
    return _built(
        backbone, method, tuple((k, tuple(v) if type(v) is list else v) for k, v in pairs)
    )


@cache
def _built(backbone: str, method: str, options: tuple[tuple[str, Any], ...]) -> tuple[int, int]:
    model = pickle.loads(_plain(backbone))  # a copy each: a method changes the model in place
    methods.apply(method, model, **dict(options))
    return methods.parameters(model)["peft"], model.num_features


@cache
def _plain(backbone: str) -> bytes:
    """A backbone without storage, pickled: far faster to copy than by `copy.deepcopy`."""
    with torch.device("meta"):
        return pickle.dumps(timm.create_model(backbone, num_classes=1))


def _in_words(backbone: str, method: str, chosen: list[dict[str, Any]]) -> str:
    """The options that change the count: one value, or the mean of one that varies by task."""
    words = []
    for key in dict.fromkeys(key for options in chosen for key in options):
        without = [{k: v for k, v in options.items() if k != key} for options in chosen]
        counts = [_count(backbone, method, options) for options in chosen]
        if counts == [_count(backbone, method, options) for options in without]:
            continue
        tally = Counter(getattr(methods.options(method, options), key) for options in chosen)
        if len(tally) == 1:
            words.append(f"{key} {next(iter(tally))}")
        elif len(tally) < 4:
            words.append(f"{key} " + ", ".join(f"{v} (x {n})" for v, n in sorted(tally.items())))
        else:
            words.append(f"{key} {sum(tally.elements()) / len(chosen):.2f} (mean)")
    return "; ".join(words)


def totals(lines: list[AuditLine]) -> dict[str, int]:
    """How many rows have each verdict."""
    counts = Counter(line.verdict for line in lines)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def show(lines: list[AuditLine], console: Console) -> None:
    """Print the lines, a section a table, and the totals."""
    table = Table(
        title="Trained parameters in millions, printed and counted", box=None, padding=(0, 1)
    )
    for heading, more in (
        ("", {"style": "dim"}),
        ("row", {"no_wrap": True}),
        ("head", {}),
        ("printed", {"justify": "right"}),
        ("counted", {"justify": "right"}),
        ("verdict", {}),
        ("options and remarks", {"ratio": 1}),
    ):
        table.add_column(heading, **more)
    before = lines[0].table
    for line in lines:
        if line.table != before:
            table.add_section()
        first = line.table if line.table != before or line is lines[0] else ""
        before = line.table
        verdict = line.verdict + (f" {line.difference_m:+.2f}" if line.verdict == DIFFERS else "")
        table.add_row(
            first,
            line.label,
            "with" if line.counted == "trainable" else "without",
            f"{line.printed_m:.2f}",
            f"{line.computed_m:.4f}",
            f"[{STYLES[line.verdict]}]{verdict}[/]",
            "; ".join(part for part in (line.options, line.remark) if part),
        )
    console.print(table)
    equal, solved, differ = totals(lines).values()
    console.print(
        f"\n{len(lines)} rows: {equal} equal, {solved} equal with options solved backwards, "
        f"{differ} differ"
    )


def csv_text(lines: list[AuditLine]) -> str:
    """The lines as CSV, a column a field of `AuditLine`."""
    import pandas as pd

    columns = [field.name for field in fields(AuditLine)]
    return pd.DataFrame([asdict(line) for line in lines], columns=columns).to_csv(index=False)
