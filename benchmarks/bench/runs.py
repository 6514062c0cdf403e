"""Whole runs: kept features, the phases of a run, and the pace of a pack."""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import run, tasks, trainer
from ..config import Recipe, RunConfig
from ..context import RunContext
from ..data import FILES, Split
from ..demo.tasks import write_tasks
from ..pixels import Feed, Pixels
from ..record import RunRecord
from .measure import Measurement, Setup, interleaved
from .steps import build, stepper

FROZEN = {"linear": 20, "mlp": 20, "partial": 4}  # how much faster 100 epochs are to be
EPOCHS = 100
HALF = Pixels((0.5,) * 3, (0.5,) * 3)


def frozen(setup: Setup) -> list[Measurement]:
    """100 epochs with kept features and without; without, all epochs cost the same: 5 are timed."""
    device = setup.device
    size = setup.pixels
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (setup.batch, size, size, 3)).astype(np.uint8)
    data = Split(images, rng.integers(0, 100, len(images)), "none", "png")
    lines = []
    for name, target in FROZEN.items():

        def seconds(epochs: int, plain: bool, name: str = name) -> float:
            recipe = Recipe(epochs=epochs, batch_size=setup.batch, warmup_epochs=0)
            model = build(name, setup.backbone, device)
            how = trainer.Procedure(plain=plain)
            outcome = trainer.train(model, data, data, recipe=recipe, pixels=HALF, seed=0, how=how)
            assert plain or "frozen features" in outcome.fast_paths
            return outcome.seconds_train

        kept = seconds(EPOCHS, plain=False)
        again = seconds(5, plain=True) / 5 * EPOCHS
        what = f"100 epochs of {name}"
        lines.append(Measurement(what, "kept features, x faster", again / kept, target, True, kept))
    return lines


def phases(setup: Setup) -> list[Measurement]:
    """Two runs of the harness in one process; the second stands for the later runs of a pack.

    On a CPU a run has few images, and its pace gives the time of one with 1000 training images,
    100 epochs and 10,000 test images.
    """
    device = setup.device
    images = (1000, 10_000) if device.type == "cuda" else (4 * setup.batch, 4 * setup.batch)
    epochs = EPOCHS if device.type == "cuda" else 1
    lines = []
    for method in ("lora", "rlrr"):
        with tempfile.TemporaryDirectory() as name:
            write_noise(Path(name), dict(zip(("trainval", "test"), images, strict=True)))
            recipe = Recipe(epochs=epochs, batch_size=setup.batch, warmup_epochs=0)
            config = RunConfig("vtab-1k", "cifar", setup.backbone, method, recipe=recipe)
            config = dataclasses.replace(config, smoke=True)
            context = RunContext(Path(name), weights="random", device=str(device))
            records = [_done(run.execute(config, context)) for _ in range(2)]
        lines += _split(method, records[1], images, epochs, setup)
    return lines


def _split(
    method: str,
    record: RunRecord,
    images: tuple[int, int],
    epochs: int,
    setup: Setup,
) -> list[Measurement]:
    device = setup.device
    keys = ("startup", "data", "train", "evaluate", "total")
    start, data, train, evaluate, total = (getattr(record, f"seconds_{key}") for key in keys)
    trained = train * 1000 * EPOCHS / (images[0] * epochs)
    scored = evaluate * 10_000 / images[1]
    rest = total - start - data - train - evaluate
    whole = start + data + trained + scored + rest
    model = build(method, setup.backbone, device)
    size = record.config.recipe.batch_size
    pixels = setup.pixels
    x = torch.randn(size, 3, pixels, pixels, device=device)
    step = stepper(method, model, x, torch.randint(100, (size,), device=device))
    noise = np.random.default_rng(0).integers(0, 256, (8 * size, pixels, pixels, 3))
    feed = Feed(noise.astype(np.uint8), HALF, device)
    batch, draws = torch.arange(size), torch.Generator()
    times = interleaved({"step": step, "data": lambda: feed(batch, draws)}, setup.rounds, device)
    middle = {name: statistics.median(values) for name, values in times.items()}
    steps = images[0] * epochs / size
    outside = max(0.0, 1 - middle["step"] * steps / train)
    share = (data + middle["data"] * 1000 * EPOCHS / size) / whole
    gpu = device.type == "cuda"
    lines = [
        Measurement(f"{method} run: start-up, second of a pack", "seconds", start, 0.5),
        Measurement(f"{method} run: data, warm cache", "share of a run", share, 0.05),
        Measurement(f"{method} run: training outside the step", "share", outside, 0.05),
    ]
    for phase, seconds in (("train", trained), ("score", scored), ("rest", rest)):
        lines.append(Measurement(f"{method} run: {phase}", "share of a run", seconds / whole))
    lines.append(
        Measurement(f"{method} run: 100 epochs, 10k tested", "seconds", whole, 60 if gpu else None)
    )
    return lines


def grid(setup: Setup) -> list[Measurement]:
    """Runs per hour when one process does the demo's rows on one task, one after another."""
    device = setup.device
    with tempfile.TemporaryDirectory() as name:
        write_tasks(Path(name))
        context = RunContext(Path(name), device=str(device))
        took = {}
        for method in ("linear", "lora", "rlrr"):
            recipe = Recipe(epochs=25, lr=1e-2)
            config = RunConfig("demo", "digits", "vit_demo_patch8_32.shapes", method, recipe=recipe)
            start = time.perf_counter()
            _done(run.execute(config, context))
            took[method] = time.perf_counter() - start
    return [
        Measurement(f"demo pack: {m}", "runs an hour", 3600 / s, seconds=s) for m, s in took.items()
    ]


def _done(record: RunRecord) -> RunRecord:
    """The record itself; the bench stops if its run failed."""
    if not record.done:
        raise SystemExit(record.error)
    return record


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
