"""Small data sets in the real layouts, for tests."""

import dataclasses
import json
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from PIL import Image

from rlrr_bench.benchmarks import tasks
from rlrr_bench.benchmarks.data import FILES, Listing, read_list

NORMS = '''"""Only the norms of the blocks are trained."""


def attach(anatomy, options):
    for block in anatomy.blocks:
        block.norm1.module.requires_grad_(True)


def count(anatomy, options):
    return sum(2 * block.width for block in anatomy.blocks)
'''  # a method of one's own, for --plugin
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


# How the archives of FGVC spell folders and keys: VPT's, and the variant that RLRR and ARC read.
# folder, what precedes a key on disk, the key itself
FGVC = {
    "vpt": {
        "CUB_200_2011": ("CUB_200_2011", "images/", "{c:03d}.Bird/{i}.jpg"),
        "NABirds": ("nabirds", "images/", "{c:04d}/{i}.jpg"),
        "OxfordFlowers": ("OxfordFlower", "", "jpg/image_{i:05d}.jpg"),
        "StanfordDogs": ("Stanford-dogs", "Images/", "n{c:08d}-dog/{i}.jpg"),
        "StanfordCars": ("Stanford-cars", "", "car_ims/{i:06d}.jpg"),
    },
    "rlrr": {
        "CUB_200_2011": ("CUB_200_2011", "images/", "{c:03d}.Bird/{i}.jpg"),
        "NABirds": ("NABirds", "images/", "{c:04d}/{i}.jpg"),
        "OxfordFlowers": ("OxfordFlowers", "", "jpg/image_{i:05d}.jpg"),
        "StanfordDogs": ("StanfordDogs", "", "Images/n{c:08d}-dog/{i}.jpg"),
        "StanfordCars": ("StanfordCars", "", "car_ims/{i:06d}.jpg"),
    },
}
PAIRS = {"clevr_dist": "clevr_count", "dsprites_ori": "dsprites_loc"} | {
    "smallnorb_ele": "smallnorb_azi"
}


def scaled(task: tasks.Task, scale: float) -> tasks.Task:
    """The task with shorter lists; its test list still shows every class."""
    sizes = {split: max(4, round(task.sizes[split] * scale)) for split in ("train", "val")}
    test = max(task.num_classes, round(task.sizes["test"] * scale))
    sizes |= {"trainval": sizes["train"] + sizes["val"], "test": test}
    return dataclasses.replace(task, sizes=sizes)


def write_benchmarks(
    root: Path, scale: float = 0.002, pixels: int = 12, fgvc: str = "vpt", suffix: str = "jpg"
) -> dict[str, dict[str, tasks.Task]]:
    """VTAB-1k's 19 tasks, FGVC's five and CIFAR-100 in their own layouts, with noise for images.

    Args:
        scale: of the list lengths. fgvc: which layout, of `FGVC`. suffix: of VTAB's images.

    Returns the task table with these lengths.
    """
    return {
        benchmark: write_benchmark(root, benchmark, None, scale, pixels, fgvc, suffix)
        for benchmark in tasks.benchmarks()
        if benchmark != "demo"
    }


def write_benchmark(
    root: Path,
    benchmark: str,
    names: Collection[str] | None = None,
    scale: float = 0.002,
    pixels: int = 12,
    fgvc: str = "vpt",
    suffix: str = "jpg",
) -> dict[str, tasks.Task]:
    """One benchmark of `write_benchmarks`, or some tasks of it."""
    table = {
        name: scaled(task, scale)
        for name, task in tasks.benchmarks()[benchmark].items()
        if names is None or name in names
    }
    for name, task in table.items():
        if benchmark == "vtab-1k":
            write_vtab(root, task, pixels, suffix)
        elif benchmark == "fgvc":
            write_fgvc(root, task, pixels, fgvc)
        else:
            table[name] = write_cifar(root, task)
    return table


def noise(seed: str, count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def labels_of(task: tasks.Task, split: str) -> list[int]:
    """Every class in turn; a split with fewer images than classes shows the first ones."""
    return [i % task.num_classes for i in range(task.sizes[split])]


def write_vtab(root: Path, task: tasks.Task, pixels: int, suffix: str) -> None:
    folder = root / task.benchmark / task.name
    for split in ("train", "val", "trainval", "test"):
        images = folder / "images" / FILES[split]
        images.mkdir(parents=True)
        parts = ("train", "val") if split == "trainval" else (split,)
        lines = []
        for part in parts:
            seed = PAIRS.get(task.name, task.name) + part
            pictures = noise(seed, task.sizes[part], pixels, pixels)
            for image, label in zip(pictures, labels_of(task, part), strict=True):
                name = f"images/{FILES[split]}/{len(lines):06d}.{suffix}"
                Image.fromarray(image).save(folder / name)
                lines.append(f"{name} {label}")
        (folder / f"{FILES[split]}.txt").write_text("\n".join(lines) + "\n")


def write_fgvc(root: Path, task: tasks.Task, pixels: int, layout: str) -> None:
    """Class ids begin at 1 and, for NABirds, have gaps; RLRR's layout has a trainval.json too."""
    spelled, prefix, key = FGVC[layout][task.name]
    folder, number, merged = root / task.benchmark / spelled, 0, {}
    for split in ("train", "val", "test"):
        pictures = noise(task.name + split, task.sizes[split], pixels, pixels + 5)
        listed = {}
        for image, label in zip(pictures, labels_of(task, split), strict=True):
            number += 1
            name = key.format(c=label, i=number)
            path = folder / (prefix + name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            listed[name] = 3 * label + 2 if task.name == "NABirds" else label + 1
        (folder / f"{split}.json").write_text(json.dumps(listed))
        merged |= listed if split != "test" else {}
    if layout == "rlrr":
        (folder / "trainval.json").write_text(json.dumps(merged))


def write_cifar(root: Path, task: tasks.Task) -> tasks.Task:
    """CIFAR-100's binary version: coarse label, fine label, three planes; returns the task."""
    folder = root / task.benchmark / "cifar-100-binary"
    folder.mkdir(parents=True)
    for split, file in (("trainval", "train.bin"), ("test", "test.bin")):
        planes = noise(split, task.sizes[split], 32, 32).reshape(-1, 3072)
        labels = np.array(labels_of(task, split), dtype=np.uint8)[:, None]
        np.hstack([labels // 5, labels, planes]).astype(np.uint8).tofile(folder / file)
    train = task.sizes["trainval"] * 9 // 10
    sizes = task.sizes | {"train": train, "val": task.sizes["trainval"] - train}
    return dataclasses.replace(task, sizes=sizes)


def read(root: Path, split: str = "trainval") -> Listing:
    """The list of the demo's `digits` as `write_task` makes it."""
    return read_list(root, tasks.get("demo", "digits"), split, smoke=True)


def edit(root: Path, change: Callable[[list[str]], bytes]) -> Path:
    """Apply `change` to the lines of the trainval list; returns the list file."""
    file = root / "demo" / "digits" / "train800val200.txt"
    file.write_bytes(change(file.read_text().splitlines()))
    return file
