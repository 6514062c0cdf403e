"""Whole runs: kept features, the phases of a run, and the pace of a pack."""

import dataclasses
import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from benchmarks import run, tasks, trainer
from benchmarks.config import Recipe, RunConfig
from benchmarks.data import FILES, Split
from benchmarks.demo.tasks import write_tasks
from benchmarks.pixels import Feed, Pixels

from .measure import Line, interleaved
from .steps import build, stepper

FROZEN = {"linear": 20, "mlp": 20, "partial": 4}  # how much faster 100 epochs are to be
EPOCHS = 100
HALF = Pixels((0.5,) * 3, (0.5,) * 3)


def frozen(arguments: Namespace, device: torch.device) -> list[Line]:
    """100 epochs with kept features, and without: there all epochs are alike, so 5 are timed."""
    size = timm.get_pretrained_cfg(arguments.backbone).input_size[-1]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (arguments.batch, size, size, 3)).astype(np.uint8)
    data = Split(images, rng.integers(0, 100, len(images)), "none", "png")
    lines = []
    for name, target in FROZEN.items():

        def seconds(epochs: int, plain: bool, name: str = name) -> float:
            recipe = Recipe(epochs=epochs, batch_size=arguments.batch, warmup_epochs=0)
            model = build(name, arguments.backbone, device)
            outcome = trainer.train(model, data, data, recipe, HALF, 0, device, plain=plain)
            assert plain or "frozen features" in outcome.fast_paths
            return outcome.seconds_train

        kept = seconds(EPOCHS, plain=False)
        again = seconds(5, plain=True) / 5 * EPOCHS
        what = f"100 epochs of {name}"
        lines.append(Line(what, "kept features, x faster", again / kept, target, True, kept))
    return lines


def phases(arguments: Namespace, device: torch.device) -> list[Line]:
    """Two runs of the harness in one process; the second is the one of a pack.

    A run on the CPU has few images; what it would take with 1000 of them, 100 epochs and 10,000
    test images is computed from its pace.
    """
    images = (1000, 10_000) if device.type == "cuda" else (4 * arguments.batch, 4 * arguments.batch)
    epochs = EPOCHS if device.type == "cuda" else 1
    lines = []
    for method in ("lora", "rlrr"):
        with tempfile.TemporaryDirectory() as name:
            write_noise(Path(name), dict(zip(("trainval", "test"), images, strict=True)))
            recipe = Recipe(epochs=epochs, batch_size=arguments.batch, warmup_epochs=0)
            config = RunConfig("vtab-1k", "cifar", arguments.backbone, method, recipe=recipe)
            config = dataclasses.replace(config, smoke=True)
            place = run.Place(Path(name), weights="random", device=str(device))
            records = [run.execute(config, place) for _ in range(2)]
        for record in records:
            if record["status"] != "done":
                raise SystemExit(record["error"])
        record = records[1]
        lines += _split(method, record, images, epochs, arguments, device)
    return lines


def _split(
    method: str,
    record: dict,
    images: tuple[int, int],
    epochs: int,
    arguments: Namespace,
    device: torch.device,
) -> list[Line]:
    trained = record["seconds_train"] * 1000 * EPOCHS / (images[0] * epochs)
    scored = record["seconds_evaluate"] * 10_000 / images[1]
    start, data = record["seconds_startup"], record["seconds_data"]
    known = start + data + record["seconds_train"] + record["seconds_evaluate"]
    rest = record["seconds_total"] - known
    whole = start + data + trained + scored + rest
    model = build(method, arguments.backbone, device)
    size = record["config"]["recipe"]["batch_size"]
    pixels = timm.get_pretrained_cfg(arguments.backbone).input_size[-1]
    x = torch.randn(size, 3, pixels, pixels, device=device)
    step = stepper(method, model, x, torch.randint(100, (size,), device=device))
    noise = np.random.default_rng(0).integers(0, 256, (8 * size, pixels, pixels, 3))
    feed = Feed(noise.astype(np.uint8), HALF, device)
    batch, draws = torch.arange(size), torch.Generator()
    times = interleaved(
        {"step": step, "data": lambda: feed(batch, draws)}, arguments.rounds, device
    )
    middle = {name: statistics.median(values) for name, values in times.items()}
    steps = images[0] * epochs / size
    outside = max(0.0, 1 - middle["step"] * steps / record["seconds_train"])
    share = (data + middle["data"] * 1000 * EPOCHS / size) / whole
    gpu = device.type == "cuda"
    found = [
        Line(f"{method} run: start-up, second of a pack", "seconds", start, 0.5),
        Line(f"{method} run: data, warm cache", "share of a run", share, 0.05),
        Line(f"{method} run: training outside the step", "share", outside, 0.05),
    ]
    for phase, seconds in (("train", trained), ("score", scored), ("rest", rest)):
        found.append(Line(f"{method} run: {phase}", "share of a run", seconds / whole))
    found.append(
        Line(f"{method} run: 100 epochs, 10k tested", "seconds", whole, 60 if gpu else None)
    )
    return found


def grid(arguments: Namespace, device: torch.device) -> list[Line]:
    """Runs an hour when one process does the demo's rows on one task, one after another."""
    with tempfile.TemporaryDirectory() as name:
        write_tasks(Path(name))
        place = run.Place(Path(name), device=str(device))
        took = {}
        for method in ("linear", "lora", "rlrr"):
            recipe = Recipe(epochs=25, lr=1e-2)
            config = RunConfig("demo", "digits", "vit_demo_patch8_32.shapes", method, recipe=recipe)
            start = time.perf_counter()
            record = run.execute(config, place)
            took[method] = time.perf_counter() - start
            if record["status"] != "done":
                raise SystemExit(record["error"])
    return [Line(f"demo pack: {m}", "runs an hour", 3600 / s, seconds=s) for m, s in took.items()]


def write_noise(root: Path, sizes: dict[str, int]) -> None:
    """CIFAR-100 in the archive layout, with noise for images."""
    folder, rng = root / "vtab-1k" / "cifar", np.random.default_rng(0)
    classes = tasks.get("vtab-1k", "cifar").num_classes
    for split, count in sizes.items():
        images = folder / "images" / FILES[split]
        images.mkdir(parents=True)
        lines = []
        for i in range(count):
            noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(images / f"{i:06d}.png")
            lines.append(f"images/{FILES[split]}/{i:06d}.png {i % classes}")
        (folder / f"{FILES[split]}.txt").write_text("\n".join(lines) + "\n")
