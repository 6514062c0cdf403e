"""Measure speed: of training steps and runs, of planning large grids, of building tables.

rlrr-bench bench               all of it, some 20 minutes on two cores
rlrr-bench bench training      steps and runs over their floors, as ratios in one session
rlrr-bench bench planning      plan, status and CSV of 20,000 runs
rlrr-bench bench tables        tables from 20,000 records
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from ...methods.errors import InputError, nearest
from . import flags

FOLDER = Path("results") / "bench"
PARTS = ("steps", "memory", "scoring", "frozen", "run", "grid")


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "bench", __doc__, "measure the speed of steps, plans and tables")
    parser.set_defaults(do=do)
    parser.add_argument("what", nargs="?", choices=("all", *WHAT), default="all")
    training = parser.add_argument_group("training")
    training.add_argument("--backbone", metavar="TAG", help="default: the paper's ViT-B/16")
    training.add_argument("--batch", type=int, metavar="N", help="default 8 on a CPU, 64 on a GPU")
    training.add_argument("--rounds", type=int, metavar="N", help="default 3 on a CPU, 20 on a GPU")
    training.add_argument("--methods", metavar="M,..", help="default: all that have a target")
    training.add_argument("--parts", metavar="P,..", help=f"default: {','.join(PARTS)}")
    training.add_argument("--device", help="default: a GPU if there is one")
    training.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=20_000, help="of planning and tables")


def do(arguments: argparse.Namespace, console: Console) -> int:
    for what in WHAT if arguments.what == "all" else (arguments.what,):
        WHAT[what](arguments, console)
    return 0


def training(arguments: argparse.Namespace, console: Console) -> None:
    """Steps, memory, scoring, kept features and whole runs over their floors."""
    import gc
    import os
    import platform
    import time

    import timm
    import torch

    from ...benchmarks.bench import report, runs, steps
    from ...benchmarks.bench.measure import Measurement, Setup
    from ...benchmarks.devices import keep_freed_memory
    from ...methods.catalogue import VIT_B

    measure = dict(
        zip(
            PARTS,
            (steps.steps, steps.memory, steps.scoring, runs.frozen, runs.phases, runs.grid),
            strict=True,
        )
    )
    parts = flags.words(arguments.parts) or PARTS
    for part in parts:
        if part not in measure:
            raise InputError(f"--parts: unknown part {part!r}; {nearest(part, PARTS)}")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = device.type == "cuda"
    setup = Setup(
        backbone=arguments.backbone or VIT_B,
        batch=arguments.batch or (64 if gpu else 8),
        rounds=arguments.rounds or (20 if gpu else 3),
        methods=flags.words(arguments.methods) or tuple(steps.TARGETS),
        device=device,
    )
    keep_freed_memory()  # as the workers do
    if arguments.peak_of:
        steps.print_peak(arguments.peak_of, setup)
        return
    machine = {
        "device": torch.cuda.get_device_name(device) if gpu else f"CPU, {os.cpu_count()} cores",
        "backbone": setup.backbone,
        "batch": f"batch {setup.batch}",
        "precision": "bf16" if gpu else "fp32",
        "torch": f"torch {torch.__version__}",
        "timm": f"timm {timm.__version__}",
        "system": platform.machine(),
    }
    lines: list[Measurement] = []
    for part in parts:
        start = time.perf_counter()
        with console.status(f"measuring: {part}"):
            lines += measure[part](setup)
        gc.collect()
        torch.cuda.empty_cache()  # the next part's processes need it; does nothing on a CPU
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if not gpu:
        what = "GPU: steps, model FLOPs utilisation, whole runs"
        lines.append(Measurement(what, "not measured", 0.0))
    report.show(lines, machine, console)
    console.print(f"  {report.save(lines, machine, FOLDER)}", soft_wrap=True)


def planning(arguments: argparse.Namespace, console: Console) -> None:
    """Plan, status and CSV of large grids."""
    from ..bench import measure

    for line in measure(arguments.runs):
        console.print(line)


def tables(arguments: argparse.Namespace, console: Console) -> None:
    """Tables from many records."""
    from ...paper_tables.bench import measure

    console.print(measure(arguments.runs))


WHAT = {"training": training, "planning": planning, "tables": tables}
