"""Draws the six demo tasks to disk, in the layout of the VTAB-1k archive.

    <root>/demo/VERSION
    <root>/demo/<task>/<split>.txt                "images/<split>/000000.png LABEL" per line
    <root>/demo/<task>/images/<split>/000000.png

for the splits train800, val200, test and train800val200 (copies of the 800, then of the 200).
"""

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ...methods.errors import ConfigError
from ..data import FILES
from ..tasks import Task, benchmarks
from . import scenes

# Raise it with every change to the pictures: it stamps a drawn set, and seeds nothing.
VERSION = 2
FOLDER = "demo"
STAMP = "VERSION"
DRAWN_SPLITS = ("train", "val", "test")  # trainval is the first two
# Scanned digits seen in training and validation; the others (797) are the test set's.
TRAINING_DIGITS = 1000


def all_tasks() -> list[Task]:
    """The six tasks, in the order of the task table."""
    return list(benchmarks()[FOLDER].values())


def draw_split(task: Task, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32, 3) uint8 images and (n,) labels of a drawn split, always the same ones.

    Classes are as even as n allows, in random order.
    """
    n = task.sizes[split]
    # The name seeds the task, so that a further task or another order changes no picture.
    rng = np.random.default_rng([*task.name.encode(), DRAWN_SPLITS.index(split)])
    labels = rng.permutation(np.arange(n) % task.num_classes)
    if task.name == "digits":
        scans = scenes.digit_order()
        training, test = scans[:TRAINING_DIGITS], scans[TRAINING_DIGITS:]
        return scenes.digits(rng, labels, test if split == "test" else training), labels
    scene: Callable[[np.random.Generator, np.ndarray], np.ndarray] = getattr(scenes, task.name)
    return scene(rng, labels), labels


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


def _write_split(folder: Path, split: str, files: list[bytes], labels: np.ndarray) -> None:
    split = FILES[split]
    images = folder / "images" / split
    images.mkdir(parents=True)
    lines = []
    for index, (content, label) in enumerate(zip(files, labels.tolist(), strict=True)):
        name = f"{index:06d}.png"
        (images / name).write_bytes(content)
        lines.append(f"images/{split}/{name} {label}\n")
    (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8", newline="\n")


def write_task(task: Task, folder: Path) -> None:
    """Draws all four splits of a task into a new folder."""
    files, labels = {}, {}
    for split in DRAWN_SPLITS:
        images, labels[split] = draw_split(task, split)
        files[split] = [_png(pixels) for pixels in images]
        _write_split(folder, split, files[split], labels[split])
    both = np.concatenate([labels["train"], labels["val"]])
    _write_split(folder, "trainval", files["train"] + files["val"], both)


def _stamp() -> str:
    return f"demo tasks, version {VERSION}\n"


def is_complete(folder: Path) -> bool:
    """Whether a folder holds the whole set of this version, every file of it."""
    stamp = folder / STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != _stamp():
        return False
    for task in all_tasks():
        for split, size in task.sizes.items():
            images = folder / task.name / "images" / FILES[split]
            if not (folder / task.name / f"{FILES[split]}.txt").is_file() or not images.is_dir():
                return False
            if len(os.listdir(images)) != size:
                return False
    return True


def write_tasks(root: Path, report: Callable[[str], None] = lambda name: None) -> bool:
    """Draws the six tasks to root/demo unless they are there already; says whether it drew.

    report(name) is called after each task. The set appears in one rename, complete or not at all.

    Raises:
        ConfigError: root/demo is not a set of these tasks.
    """
    target = root / FOLDER
    if is_complete(target):
        return False
    if target.exists() and not (target / STAMP).is_file() and any(target.iterdir()):
        raise ConfigError(f"{target}: exists and is not a set of demo tasks; move it away")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{FOLDER}-", dir=root) as scratch:
        fresh = Path(scratch) / "new"
        for task in all_tasks():
            write_task(task, fresh / task.name)
            report(task.name)
        (fresh / STAMP).write_text(_stamp(), encoding="utf-8")
        if target.exists():
            os.rename(target, Path(scratch) / "old")
        try:
            os.rename(fresh, target)
        except OSError:
            # Another process was faster; its set is the same, pixel for pixel.
            if not is_complete(target):
                raise
    return True
