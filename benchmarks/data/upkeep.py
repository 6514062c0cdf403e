"""How large the cache is; removes what is not needed any more."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..tasks import SPLITS, benchmarks
from .cache import DAMAGE, DRAFT, LISTS, segments_of, stamp_of
from .lists import DataError, locate, parse
from .rows import Segment


@dataclass(frozen=True)
class Usage:
    """One view's part of a cache. lists: splits that are remembered; images: distinct ones."""

    view: str
    lists: int
    images: int
    bytes: int


def usage(cache: Path) -> list[Usage]:
    """The size of a cache, view by view."""
    views = []
    for home in _views(cache):
        segments = segments_of(home)
        images = 0
        for folder in segments:
            try:
                images += len(Segment.digests(folder))
            except DAMAGE:
                continue
        size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
        views.append(Usage(home.name, len(list((home / LISTS).glob("*.npz"))), images, size))
    return views


def prune(root: Path, cache: Path) -> int:
    """Remove what no list under `root` needs now; returns the bytes freed.

    This also removes the drafts of killed builders, so do not prune while a cache is being built.
    Images of another data folder in a shared cache are removed too, and built again when needed.
    """
    stamps = {f"{name}-{stamp}.npz" for name, stamp in _stamps(root)}
    before = sum(view.bytes for view in usage(cache))
    for home in _views(cache):
        used: set[str] = set()
        for entry in (home / LISTS).glob("*.npz"):
            try:
                if entry.name not in stamps:
                    raise ValueError("of a list that has changed")
                with np.load(entry, allow_pickle=False) as file:
                    used |= set(file["segments"].tolist())
            except DAMAGE:
                entry.unlink(missing_ok=True)
        for folder in home.iterdir():
            draft = folder.name.startswith(DRAFT)
            if folder.is_dir() and folder.name != LISTS and (draft or folder.name not in used):
                shutil.rmtree(folder, ignore_errors=True)
        if not used:
            shutil.rmtree(home, ignore_errors=True)
    return before - sum(view.bytes for view in usage(cache))


def _views(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.glob(f"v*/{LISTS}"))


def _stamps(root: Path) -> list[tuple[str, str]]:
    """The name and stamp of every split that can be read."""
    stamps = []
    for tasks in benchmarks().values():
        for task in tasks.values():
            try:
                locate(root, task)
            except DataError:
                continue
            for split in SPLITS:
                try:
                    stamp, _ = stamp_of(parse(root, task, split)[0])
                except (DataError, ValueError):  # ValueError: an empty list
                    continue
                stamps.append((f"{task.benchmark}-{task.name}-{split}", stamp))
    return stamps
