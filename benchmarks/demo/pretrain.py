"""Pretrains a demo backbone to name the shape, texture and colour of rendered objects."""

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from ..files import replacing, write_text
from .models import MODEL_NAMES, checkpoint_path
from .render import CLASSES, render

# The lengths of the runs that made the committed checkpoints.
STEPS = {"vit": 9500, "swin": 5000}
LOG_FIELDS = ("step", "loss", "held_out_accuracy", "seconds")
# Training reads a pool of pictures, in which every step replaces 1/REUSE of a batch. So each is
# seen about REUSE times, turned and mirrored, which costs less than drawing new ones.
REUSE = 3


@dataclass(frozen=True)
class Pretraining:
    """How long and how to pretrain; the run ends at `steps`, or after `minutes` if given."""

    model: str = "vit"
    steps: int = STEPS["vit"]
    minutes: float | None = None
    seed: int = 0
    batch_size: int = 256
    pool_size: int = 8192
    held_out: int = 2048
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.04  # share of the run
    evaluate_every: int = 500  # steps

    @property
    def command(self) -> str:
        length = f"--steps {self.steps}" if self.minutes is None else f"--minutes {self.minutes:g}"
        return f"rlrr-bench demo pretrain --model {self.model} {length} --seed {self.seed}"


def to_input(images: np.ndarray) -> Tensor:
    """(n, 32, 32, 3) uint8 -> (n, 3, 32, 32) float32 in [-1, 1], as in the pretrained_cfg."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def labelled_images(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Rendered pretraining pictures of random classes: (n, 3, 32, 32) inputs and (n,) labels."""
    labels = rng.integers(0, len(CLASSES), n)
    return to_input(render(rng, labels)), torch.from_numpy(labels)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in [0, 1]; leaves the model in evaluation mode."""
    model.eval()
    hits = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(images.split(256), labels.split(256), strict=True)
    )
    return hits / len(labels)


def turned(images: Tensor) -> Tensor:
    """Turn each eighth of a batch by one more quarter turn; mirror the second half too.

    No label changes: the classes are drawn at every angle, and mirroring keeps them.
    """
    eighths = images.tensor_split(8)
    return torch.cat(
        [
            torch.rot90(part.flip(3) if k >= 4 else part, k % 4, (2, 3))
            for k, part in enumerate(eighths)
        ]
    )


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _rate(recipe: Pretraining, done: float) -> float:
    """Learning rate after a share `done` of the run: linear warm-up, then half a cosine."""
    if done < recipe.warmup:
        return recipe.learning_rate * max(done / recipe.warmup, 0.01)
    phase = (done - recipe.warmup) / (1 - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(phase, 1.0)))


def train(
    recipe: Pretraining, report: Callable[[int, float, float, float], None]
) -> tuple[nn.Module, list[dict[str, str]]]:
    """Runs the recipe and returns the model and the rows of its log.

    report(step, share done, loss, images per second) is called after every step.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 0])
    held_out = labelled_images(np.random.default_rng([recipe.seed, 1]), recipe.held_out)
    model = timm.create_model(MODEL_NAMES[recipe.model], pretrained=False, num_classes=len(CLASSES))
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, fused=True
    )
    pool_images, pool_labels = labelled_images(rng, recipe.pool_size)
    fresh = math.ceil(recipe.batch_size / REUSE)
    rows: list[dict[str, str]] = []
    start, step, done, mean_loss, oldest = time.perf_counter(), 0, 0.0, 0.0, 0
    while done < 1:
        slots = torch.arange(oldest, oldest + fresh) % recipe.pool_size
        pool_images[slots], pool_labels[slots] = labelled_images(rng, fresh)
        oldest = (oldest + fresh) % recipe.pool_size
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, done)
        picked = torch.from_numpy(rng.integers(0, recipe.pool_size, recipe.batch_size))
        model.train()
        loss = F.cross_entropy(model(turned(pool_images[picked])), pool_labels[picked])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        seconds = time.perf_counter() - start
        done = step / recipe.steps if recipe.minutes is None else seconds / (60 * recipe.minutes)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step}")
        mean_loss = value if step == 1 else 0.98 * mean_loss + 0.02 * value
        report(step, min(done, 1.0), mean_loss, step * recipe.batch_size / seconds)
        if step % recipe.evaluate_every == 0 or done >= 1:
            score = accuracy(model, *held_out)
            figures = (str(step), f"{mean_loss:.4f}", f"{score:.4f}", f"{seconds:.1f}")
            rows.append(dict(zip(LOG_FIELDS, figures, strict=True)))
    return model, rows


def save_checkpoint(
    model: nn.Module, rows: list[dict[str, str]], recipe: Pretraining, folder: Path
) -> Path:
    """Writes the checkpoint, its log beside it, and returns the checkpoint's path."""
    path = checkpoint_path(MODEL_NAMES[recipe.model], folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, LOG_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    metadata = {
        "format": "pt",
        "model": MODEL_NAMES[recipe.model],
        "command": recipe.command,
        "seed": str(recipe.seed),
        "steps": rows[-1]["step"],
        "classes": str(len(CLASSES)),
        "class_names": " ".join("/".join(name) for name in CLASSES),
        "held_out_accuracy": rows[-1]["held_out_accuracy"],
    }
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_text(path.with_name(f"{MODEL_NAMES[recipe.model]}.log.csv"), text.getvalue())
    with replacing(path) as draft:
        draft.write_bytes(save(state, metadata))
    return path


def pretrain(recipe: Pretraining, folder: Path) -> Path:
    """Pretrains with a live progress line and writes checkpoint and log into folder."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[speed]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(
            f"pretrain {recipe.model}", total=1.0, step=0, loss=math.nan, speed=0.0
        )

        def report(step: int, done: float, loss: float, speed: float) -> None:
            progress.update(task, completed=done, step=step, loss=loss, speed=speed)

        model, rows = train(recipe, report)
    return save_checkpoint(model, rows, recipe, folder)
