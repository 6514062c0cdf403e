"""Reads VTAB-1k's archive layout and decodes every image once.

    DATA/vtab-1k/<task>/{train800,val200,train800val200,test}.txt    lines "images/... LABEL"
    DATA/vtab-1k/<task>/images/...

Images become uint8 arrays of the run's input size (RGB; PIL's bicubic, aspect not kept), kept in a
memory-mapped cache that all runs and processes share. Nothing here needs torch.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from .config import ConfigError
from .tasks import Task

FILES = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
CACHE_FORMAT = 1  # part of the cache key: raise it when decoding changes


class DataError(ConfigError):
    """Something is wrong with a data folder; one line that names the file and line."""


@dataclass(frozen=True)
class Split:
    """Decoded images and their labels.

    images: uint8, N x size x size x 3, read-only, usually memory-mapped; labels: int64, N.
    fingerprint: hash of the labels and the bytes of the image files; variant: their file format.
    """

    images: np.ndarray
    labels: np.ndarray
    fingerprint: str
    variant: str


@dataclass(frozen=True)
class Listing:
    """A list file: its images (paths) and labels, in order."""

    file: Path
    paths: list[Path]
    labels: list[int]


def read_list(root: Path, task: Task, split: str, smoke: bool = False) -> Listing:
    """The list of a split, checked against the task table. CRLF and blank lines are accepted.

    Args:
        root: the data folder, which holds one folder a benchmark.
        smoke: accept a list of another length than the table says.

    Raises:
        DataError: a missing folder or file, a line that is no "path label", a label out of range, a
            path that leaves the folder, or the wrong number of lines.
    """
    folder = root / task.benchmark / task.name
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected task {task.name} there (see --data)")
    file = folder / f"{FILES[split]}.txt"
    if not file.is_file():
        raise DataError(f"{file}: no such list; expected {task.sizes[split]} lines 'path label'")
    paths, labels = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdigit():
            raise DataError(f"{file}:{number}: found {line!r}, expected 'path label'")
        if int(label) >= task.num_classes:
            last = task.num_classes - 1
            raise DataError(f"{file}:{number}: found label {label}, expected 0 to {last}")
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"{file}:{number}: path {name!r} leaves the folder {folder}")
        paths.append(folder / relative)
        labels.append(int(label))
    if len(paths) != task.sizes[split] and not (smoke and paths):
        expected = task.sizes[split]
        raise DataError(f"{file}: found {len(paths)} images, expected {expected}")
    return Listing(file, paths, labels)


def check_files(listing: Listing) -> list[os.stat_result]:
    """The stat of every image; a DataError names the first that is missing."""
    stats = []
    for number, path in enumerate(listing.paths, start=1):
        try:
            stats.append(path.stat())
        except OSError:
            raise DataError(f"{listing.file}: image {number}: no such file {path}") from None
    return stats


def decode(path: Path, size: int, interpolation: str) -> tuple[np.ndarray, bytes]:
    """One image as uint8 size x size x 3, and the SHA-256 of its file.

    What the papers' loaders do: PIL, RGB, bicubic to a square.

    Raises:
        DataError: the file is no image, or is truncated.
    """
    raw = path.read_bytes()
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB").resize((size, size), FILTERS[interpolation])
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be decoded: {error}") from None
    return np.asarray(rgb), hashlib.sha256(raw).digest()


def load(
    root: Path,
    task: Task,
    split: str,
    size: int,
    interpolation: str = "bicubic",
    cache: Path | None = None,
    smoke: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Split:
    """A split, decoded; from the cache (default DATA/.cache) when it is there and complete.

    The cache is keyed by the list, the size and time of every image file, and the transform. It is
    built under a temporary name and renamed, so that processes may build it at once.

    Raises:
        DataError: see `read_list`, `check_files` and `decode`; or the cache cannot be written.
    """
    listing = read_list(root, task, split, smoke)
    stats = check_files(listing)
    labels = np.asarray(listing.labels, dtype=np.int64)
    labels.setflags(write=False)
    key = hashlib.sha256(f"{CACHE_FORMAT} {size} {interpolation}\n".encode())
    for path, label, stat in zip(listing.paths, listing.labels, stats, strict=True):
        key.update(f"{path.name} {label} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    home = (cache or root / ".cache") / task.benchmark / task.name
    folder = home / f"{split}-{size}-{key.hexdigest()[:16]}"
    found = _open_cache(folder)
    if found is None:
        _build_cache(folder, listing, size, interpolation, progress)
        found = _open_cache(folder)
    images, meta = found
    return Split(images, labels, meta["fingerprint"], meta["variant"])


def _open_cache(folder: Path) -> tuple[np.ndarray, dict] | None:
    """The cache's images and notes; None if there is none, or it is damaged (and then removed)."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if (folder / "images.npy").stat().st_size != meta["bytes"]:
            raise ValueError("truncated")
        return np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False), meta
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _build_cache(
    folder: Path,
    listing: Listing,
    size: int,
    interpolation: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    except OSError as error:
        raise DataError(f"{folder.parent}: the cache cannot be written: {error.strerror}") from None
    try:
        total = len(listing.paths)
        images = np.lib.format.open_memmap(
            draft / "images.npy", mode="w+", dtype=np.uint8, shape=(total, size, size, 3)
        )
        content = hashlib.sha256(np.asarray(listing.labels, dtype=np.int64).tobytes())
        for i, (image, digest) in enumerate(_decode_all(listing.paths, size, interpolation)):
            images[i] = image
            content.update(digest)
            if progress and (i % 50 == 49 or i == total - 1):
                progress(i + 1, total)
        images.flush()
        del images
        meta = {
            "fingerprint": content.hexdigest()[:16],
            "variant": listing.paths[0].suffix.lstrip(".").lower(),
            "bytes": (draft / "images.npy").stat().st_size,
        }
        (draft / "meta.json").write_text(json.dumps(meta))
        try:
            os.rename(draft, folder)
        except OSError:  # another process was faster; its copy is as good
            if _open_cache(folder) is None:
                raise
    except OSError as error:
        raise DataError(f"{folder}: the cache cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _decode_all(
    paths: list[Path], size: int, interpolation: str
) -> Iterator[tuple[np.ndarray, bytes]]:
    """Decoded images in order, by a few threads, never far ahead of the reader."""
    workers = min(16, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), 512):
            chunk = paths[start : start + 512]
            yield from pool.map(lambda path: decode(path, size, interpolation), chunk)
