"""python -m benchmarks.bench: measure, show, save."""

import argparse
import csv
import gc
import io
import os
import platform
import sys
import time
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table

import benchmarks.bench
from benchmarks.devices import keep_freed_memory
from benchmarks.record import write_atomically

from . import runs, steps
from .measure import Line

FOLDER = Path(__file__).resolve().parents[2] / "results" / "bench"
VIT_B = "vit_base_patch16_224.orig_in21k"
PARTS = {
    "steps": steps.steps,
    "memory": steps.memory,
    "scoring": steps.scoring,
    "frozen": runs.frozen,
    "run": runs.phases,
    "grid": runs.grid,
}


def main(argv: list[str] | None = None) -> int:
    kind = argparse.RawDescriptionHelpFormatter
    text = benchmarks.bench.__doc__
    parser = argparse.ArgumentParser("python -m benchmarks.bench", None, text, formatter_class=kind)
    parser.add_argument("--backbone", default=VIT_B)
    parser.add_argument("--batch", type=int, help="default 8 on a CPU, 64 on a GPU")
    parser.add_argument("--rounds", type=int, help="default 3 on a CPU, 20 on a GPU")
    parser.add_argument("--methods", type=words, default=list(steps.TARGETS), metavar="M,..")
    parser.add_argument("--parts", type=words, default=list(PARTS), metavar="P,..")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()!r}; known: {', '.join(PARTS)}")
    device = torch.device(arguments.device)
    keep_freed_memory()  # as the workers do
    gpu = device.type == "cuda"
    arguments.batch = arguments.batch or (64 if gpu else 8)
    arguments.rounds = arguments.rounds or (20 if gpu else 3)
    if arguments.peak_of:
        steps.print_peak(arguments.peak_of, arguments, device)
        return 0
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {os.cpu_count()} cores"
    machine = {
        "device": name,
        "backbone": arguments.backbone,
        "batch": f"batch {arguments.batch}",
        "precision": "bf16" if gpu else "fp32",
        "torch": f"torch {torch.__version__}",
        "timm": f"timm {timm.__version__}",
        "system": platform.machine(),
    }
    lines: list[Line] = []
    for part in arguments.parts:
        start = time.perf_counter()
        with console.status(f"measuring: {part}"):
            lines += PARTS[part](arguments, device)
        gc.collect()
        torch.cuda.empty_cache()  # the next part's processes need it; does nothing on a CPU
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if not gpu:
        lines.append(Line("GPU: steps, model FLOPs utilisation, whole runs", "not measured", 0.0))
    show(lines, machine, console)
    console.print(f"  {save(lines, machine)}", soft_wrap=True)
    return 0


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def show(lines: list[Line], machine: dict[str, str], console: Console) -> None:
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


def save(lines: list[Line], machine: dict[str, str]) -> Path:
    """Write the lines as CSV, a file a machine and backbone; returns its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    words = f"{machine['device']} {machine['backbone']} {machine['batch']}".replace(",", "")
    path = FOLDER / f"{words.replace(' ', '-')}.csv"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["what", "over", "value", "target", "verdict", "seconds", *machine])
    for line in lines:
        row = [line.what, line.over, f"{line.value:.4f}", line.aim, line.verdict]
        table.writerow([*row, f"{line.seconds:.4f}", *machine.values()])
    write_atomically(path, text.getvalue())
    return path


if __name__ == "__main__":
    sys.exit(main())
