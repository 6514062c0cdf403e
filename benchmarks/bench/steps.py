"""Steps, scoring and memory of every method over their floors."""

import statistics
import subprocess
import sys
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import methods
from ...methods.anatomy import Anatomy
from ..config import Recipe
from ..devices import peak_memory_mb
from ..optimization import make_optimizer
from ..run import forward_flops
from ..trainer import autocast, for_scoring
from .measure import Measurement, Setup, interleaved, ratio

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
PRODUCTS = {"forward": 1, "input": 2, "full": 3}  # of a linear layer in a step
UTILISATION = {"lora": 0.45, "rlrr": 0.45}  # model FLOPs over what the device does, on a GPU
MEMORY_TARGETS = {"rlrr": 0.80}
SCORING_TARGET = 1.02


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
    """A function that does one training step, or the part of a step that a floor consists of."""
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
        optimizer = make_optimizer(model, RECIPE)

        def run() -> None:
            with autocast(RECIPE, device):
                loss = F.cross_entropy(model(x).float(), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def steps(setup: Setup) -> list[Measurement]:
    """Training steps over their floors. A method's model exists only while it is measured."""
    device = setup.device
    size = setup.pixels
    x = torch.randn(setup.batch, 3, size, size, device=device)
    y = torch.randint(100, (setup.batch,), device=device)
    lines = []
    floors = {
        "input": stepper("input", build("plain", setup.backbone, device), x, y),
        "full": stepper("full", build("full", setup.backbone, device), x, y),
        "forward": stepper("forward", build("plain", setup.backbone, device), x, y),
    }
    for name in setup.methods:
        floor, *targets = TARGETS.get(name, ("input", None, None))
        if name == floor:
            continue
        model = build(name, setup.backbone, device)
        runs = {floor: floors[floor], name: stepper(name, model, x, y)}
        times = interleaved(runs, setup.rounds, device)
        measured = ratio(times, name, floor)
        if name == "vpt":  # per token: prompts make the sequence longer
            tokens = (size // 16) ** 2 + 1
            measured *= tokens / (tokens + methods.options("vpt").prompts)
        target = targets[device.type == "cuda"]
        middle = statistics.median(times[name])
        lines.append(
            Measurement(f"step, {name}", f"{floor} floor", measured, target, seconds=middle)
        )
        if name in UTILISATION:
            flops = PRODUCTS[floor] * setup.batch * forward_flops(model, size, device)
            share = flops / middle / matrix_rate(device, setup.rounds)
            aim = UTILISATION[name] if device.type == "cuda" else None
            what = "share of the device's matrix rate"
            lines.append(Measurement(f"step, {name}", what, share, aim, at_least=True))
    return lines


def matrix_rate(device: torch.device, rounds: int) -> float:
    """FLOP/s of one large product in the precision of the runs, median of some rounds."""
    gpu = device.type == "cuda"
    n, dtype = (8192, torch.bfloat16) if gpu else (2048, torch.float32)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in "ab")
    times = interleaved({"product": lambda: torch.mm(a, b)}, rounds, device)["product"]
    return 2 * n**3 / statistics.median(times)


def scoring(setup: Setup) -> list[Measurement]:
    """Scoring a trained model over the plain timm model's forward pass."""
    device = setup.device
    size = setup.pixels
    x = torch.randn(setup.batch, 3, size, size, device=device)
    plain = build("plain", setup.backbone, device).eval()
    lines = []

    def run(model: nn.Module) -> Callable[[], None]:
        return lambda: forward(model, x)

    for name in setup.methods:
        model = for_scoring(build(name, setup.backbone, device)).eval()
        if hasattr(model, "peft") and name not in ("full", "linear", "bias"):
            continue  # not mergeable
        times = interleaved({"plain": run(plain), name: run(model)}, setup.rounds, device)
        middle = statistics.median(times[name])
        value = ratio(times, name, "plain")
        lines.append(
            Measurement(f"scoring, {name}", "plain timm", value, SCORING_TARGET, seconds=middle)
        )
    return lines


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode(), autocast(RECIPE, x.device):
        model(x)


def memory(setup: Setup) -> list[Measurement]:
    """Peak memory of a process that trains two steps: resident on a CPU, allocated on a GPU."""
    # each in a process of its own, because a peak never goes down
    device = setup.device

    def peak(name: str) -> float:
        command = [sys.executable, "-m", "rlrr_bench", "bench", "training", "--peak-of", name]
        command += ["--backbone", setup.backbone, "--batch", str(setup.batch)]
        command += ["--device", str(device)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)

    floors = {"input": peak("input"), "full": peak("full")}
    lines = []
    for name in setup.methods:
        floor = TARGETS.get(name, ("input",))[0]
        if name == floor or floor not in floors:
            continue
        target = MEMORY_TARGETS.get(name)
        value = peak(name) / floors[floor]
        lines.append(Measurement(f"peak memory, {name}", f"{floor} floor", value, target))
    return lines


def print_peak(name: str, setup: Setup) -> None:
    device = setup.device
    size = setup.pixels
    x = torch.randn(setup.batch, 3, size, size, device=device)
    y = torch.randint(100, (setup.batch,), device=device)
    model = build("plain" if name == "input" else name, setup.backbone, device)
    run = stepper(name, model, x, y)
    run()
    run()
    print(peak_memory_mb(device))
