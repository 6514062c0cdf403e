"""Small data sets in the real layouts, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import tasks
from benchmarks.data import FILES

SMALL = {"train": 12, "val": 4, "trainval": 16, "test": 10}


def write_task(
    root: Path,
    benchmark: str,
    name: str,
    sizes: dict[str, int] | None = None,
    pixels: int = 32,
    suffix: str = "png",
) -> Path:
    """A task of the table in the archive layout, with noise for images; returns its folder."""
    task = tasks.get(benchmark, name)
    folder = root / benchmark / name
    rng = np.random.default_rng(0)
    for split, count in (sizes or task.sizes).items():
        images = folder / "images" / FILES[split]
        images.mkdir(parents=True)
        lines = []
        for i in range(count):
            image = rng.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
            Image.fromarray(image).save(images / f"{i:06d}.{suffix}")
            label = rng.integers(task.num_classes)
            lines.append(f"images/{FILES[split]}/{i:06d}.{suffix} {label}")
        (folder / f"{FILES[split]}.txt").write_text("\n".join(lines) + "\n")
    return folder
