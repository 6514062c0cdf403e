"""Shows measurements in the terminal and writes them as CSV."""

import csv
import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..files import write_text
from .measure import Measurement


def show(lines: list[Measurement], machine: dict[str, str], console: Console) -> None:
    table = Table(box=None, pad_edge=False, title=", ".join(machine.values()))
    for name in ("what", "over"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "target", "verdict", "seconds"):
        table.add_column(name, justify="right")
    colours = {"met": "green", "missed": "red"}
    for line in lines:
        value = (
            "" if line.over == "not measured" else f"{line.value:,.{3 if line.value < 10 else 1}f}"
        )
        took = f"{line.seconds:.3f}" if line.seconds else ""
        style = colours.get(line.verdict)
        table.add_row(line.what, line.over, value, line.aim, line.verdict, took, style=style)
    console.print(table)


def save(lines: list[Measurement], machine: dict[str, str], folder: Path) -> Path:
    """Write the lines as CSV, one file per machine and backbone; returns its path."""
    words = f"{machine['device']} {machine['backbone']} {machine['batch']}".replace(",", "")
    path = folder / f"{words.replace(' ', '-')}.csv"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["what", "over", "value", "target", "verdict", "seconds", *machine])
    for line in lines:
        row = [line.what, line.over, f"{line.value:.4f}", line.aim, line.verdict]
        table.writerow([*row, f"{line.seconds:.4f}", *machine.values()])
    write_text(path, text.getvalue())
    return path
