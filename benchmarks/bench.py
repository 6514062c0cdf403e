"""What a run costs over its matrix products: python -m benchmarks.bench (or make bench).

Ratios are measured in one process, interleaved, as medians of several rounds: every method's
training step over the floor of its kind on the same backbone, batch and device; peak memory of a
process that trains over the floor's; scoring speed over the plain timm model's; and the phases of a
run. Floors: input = frozen timm model, forward and gradient to the first block's input (two matrix
products a linear layer); full = plain full fine-tuning (three); forward = forward only (one).
"""

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import methods
from benchmarks.config import Recipe
from benchmarks.record import write_atomically
from benchmarks.trainer import autocast, for_scoring, make_optimizer
from methods.anatomy import Anatomy

ROOT = Path(__file__).resolve().parent.parent
VIT_B = "vit_base_patch16_224.orig_in21k"
RECIPE = Recipe()
# method -> (floor of its kind, target of the step over it on a CPU, on a GPU)
TARGETS = {
    "lora": ("input", 1.05, 1.10),
    "bias": ("input", 1.05, 1.10),
    "adapter": ("input", 1.05, 1.10),
    "adaptformer": ("input", 1.05, 1.10),
    "vpt": ("input", 1.05, 1.10),
    "fact": ("input", 1.10, 1.15),
    "arc": ("input", 1.10, 1.15),
    "ssf": ("input", 1.10, 1.15),
    "rlrr": ("full", 1.00, 1.00),
    "full": ("full", None, None),
    "linear": ("forward", None, None),
}
MEMORY_TARGETS = {"rlrr": 0.80}
SCORING_TARGET = 1.02


@dataclass
class Line:
    """One measured ratio; `target` is the most it may be, None where there is none."""

    what: str
    over: str
    ratio: float
    target: float | None
    seconds: float

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "met" if self.ratio <= self.target + 0.005 else "missed"


def build(name: str, backbone: str, device: torch.device) -> nn.Module:
    """A method on the backbone with random weights; "plain" is the frozen timm model."""
    torch.manual_seed(0)
    model = timm.create_model(backbone, num_classes=100, drop_path_rate=0.0)
    if name == "plain":
        model.requires_grad_(False)
    else:
        methods.apply(name, model)
    return model.to(device).train()


def stepper(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A function that does one training step (or a floor's part of one) and waits for it."""
    device = x.device
    if name == "forward":

        def run() -> None:
            with torch.no_grad(), autocast(RECIPE, device):
                model(x)

    elif name == "input":
        first = Anatomy(model).blocks[0].block.module
        first.register_forward_pre_hook(lambda _, inputs: (inputs[0].requires_grad_(True),))

        def run() -> None:
            with autocast(RECIPE, device):
                loss = F.cross_entropy(model(x).float(), y)
            loss.backward()

    else:
        optimizer = make_optimizer(model, RECIPE, device)

        def run() -> None:
            with autocast(RECIPE, device):
                loss = F.cross_entropy(model(x).float(), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def seconds(run: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def interleaved(
    runs: dict[str, Callable[[], None]], rounds: int, device: torch.device, console: Console
) -> dict[str, list[float]]:
    """Seconds of every function in every round, the functions taking turns; one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            passed = seconds(run, device)
            if number:
                times[name].append(passed)
        if console.is_terminal:
            console.print(f"  round {number} of {rounds}", end="\r")
    return times


def ratio(times: dict[str, list[float]], name: str, over: str) -> float:
    """The median over the rounds of the two times' ratio in that round."""
    return statistics.median(a / b for a, b in zip(times[name], times[over], strict=True))


def steps(arguments: argparse.Namespace, device: torch.device, console: Console) -> list[Line]:
    """Training steps over their floors. A method's model is made for its turns and then dropped."""
    size = timm.get_pretrained_cfg(arguments.backbone).input_size[-1]
    x = torch.randn(arguments.batch, 3, size, size, device=device)
    y = torch.randint(100, (arguments.batch,), device=device)
    lines = []
    floors = {
        "input": stepper("input", build("plain", arguments.backbone, device), x, y),
        "full": stepper("full", build("full", arguments.backbone, device), x, y),
        "forward": stepper("forward", build("plain", arguments.backbone, device), x, y),
    }
    for name in arguments.methods:
        floor, *targets = TARGETS.get(name, ("input", None, None))
        model = build(name, arguments.backbone, device)
        runs = {floor: floors[floor], name: stepper(name, model, x, y)}
        if name == floor:
            continue
        times = interleaved(runs, arguments.rounds, device, console)
        measured = ratio(times, name, floor)
        if name == "vpt":  # per token: prompts make the sequence longer
            tokens = (size // 16) ** 2 + 1
            measured *= tokens / (tokens + methods.options("vpt").prompts)
        target = targets[device.type == "cuda"]
        middle = statistics.median(times[name])
        lines.append(Line(f"step, {name}", f"{floor} floor", measured, target, middle))
    return lines


def scoring(arguments: argparse.Namespace, device: torch.device, console: Console) -> list[Line]:
    """Scoring a trained model over the plain timm model's forward pass."""
    size = timm.get_pretrained_cfg(arguments.backbone).input_size[-1]
    x = torch.randn(arguments.batch, 3, size, size, device=device)
    plain = build("plain", arguments.backbone, device).eval()
    lines = []

    def run(model: nn.Module) -> Callable[[], None]:
        return lambda: forward(model, x)

    for name in arguments.methods:
        model = for_scoring(build(name, arguments.backbone, device)).eval()
        if hasattr(model, "peft") and name not in ("full", "linear", "bias"):
            continue  # not mergeable
        times = interleaved(
            {"plain": run(plain), name: run(model)}, arguments.rounds, device, console
        )
        lines.append(
            Line(
                f"scoring, {name}",
                "plain timm",
                ratio(times, name, "plain"),
                SCORING_TARGET,
                statistics.median(times[name]),
            )
        )
    return lines


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode(), autocast(RECIPE, x.device):
        model(x)


def memory(arguments: argparse.Namespace, device: torch.device) -> list[Line]:
    """Peak memory of a process that trains two steps: resident on a CPU, allocated on a GPU."""

    def peak(name: str) -> float:
        command = [sys.executable, "-m", "benchmarks.bench", "--peak-of", name]
        command += ["--backbone", arguments.backbone, "--batch", str(arguments.batch)]
        command += ["--device", str(device)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return float(done.stdout)

    floors = {"input": peak("input"), "full": peak("full")}
    lines = []
    for name in arguments.methods:
        floor = TARGETS.get(name, ("input",))[0]
        if name == floor or floor not in floors:
            continue
        target = MEMORY_TARGETS.get(name)
        lines.append(
            Line(f"peak memory, {name}", f"{floor} floor", peak(name) / floors[floor], target, 0.0)
        )
    return lines


def print_peak(name: str, arguments: argparse.Namespace, device: torch.device) -> None:
    size = timm.get_pretrained_cfg(arguments.backbone).input_size[-1]
    x = torch.randn(arguments.batch, 3, size, size, device=device)
    y = torch.randint(100, (arguments.batch,), device=device)
    model = build("plain" if name == "input" else name, arguments.backbone, device)
    run = stepper(name, model, x, y)
    run()
    run()
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device) / 2**20)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def show(lines: list[Line], machine: dict[str, str], console: Console) -> None:
    table = Table(box=None, pad_edge=False, title=", ".join(machine.values()))
    for name in ("what", "over"):
        table.add_column(name, no_wrap=True)
    for name in ("ratio", "target", "verdict", "seconds"):
        table.add_column(name, justify="right")
    colours = {"met": "green", "missed": "red"}
    for line in lines:
        table.add_row(
            line.what,
            line.over,
            f"{line.ratio:.3f}",
            "" if line.target is None else f"<= {line.target:.2f}",
            line.verdict,
            f"{line.seconds:.3f}" if line.seconds else "",
            style=colours.get(line.verdict),
        )
    console.print(table)


def save(lines: list[Line], machine: dict[str, str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{machine['device'].replace(' ', '-')}.csv"
    rows = [["what", "over", "ratio", "target", "verdict", "seconds", "machine"]]
    for line in lines:
        rows.append([line.what, line.over, f"{line.ratio:.4f}", line.target or ""])
        rows[-1] += [line.verdict, f"{line.seconds:.4f}", json.dumps(machine)]
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue())
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--backbone", default=VIT_B)
    parser.add_argument("--batch", type=int, help="default 8 on a CPU, 64 on a GPU")
    parser.add_argument("--rounds", type=int, help="default 3 on a CPU, 20 on a GPU")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--parts", default="steps,memory,scoring")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    gpu = device.type == "cuda"
    arguments.batch = arguments.batch or (64 if gpu else 8)
    arguments.rounds = arguments.rounds or (20 if gpu else 3)
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments, device)
        return 0
    console = Console(highlight=False)
    name = torch.cuda.get_device_name(device) if gpu else f"cpu {os.cpu_count()} cores"
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
    parts = arguments.parts.split(",")
    if "steps" in parts:
        lines += steps(arguments, device, console)
    if "memory" in parts:
        lines += memory(arguments, device)
    if "scoring" in parts:
        lines += scoring(arguments, device, console)
    show(lines, machine, console)
    console.print(f"  {save(lines, machine, ROOT / 'results' / 'bench')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
