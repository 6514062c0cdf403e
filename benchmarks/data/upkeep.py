"""How large the cache is, and what of it is not needed any more."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import read_bytes
from ..tasks import SPLITS, benchmarks
from .cache import DAMAGE, DRAFT, LISTS, MARKER, SIGNATURE, segments_of, stamp_of
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
        lists = len(list((home / LISTS).glob("*.npz")))
        views.append(Usage(home.name, lists, images, size_of(home)))
    return views


def unneeded(root: Path, cache: Path) -> list[Path]:
    """What no list under `root` needs now: entries of lists, segments, drafts of killed builders.

    Only folders that carry the mark of a cache are looked into, and only at what a cache has in it.
    Images of another data folder in a shared cache are not needed either.
    """
    stamps = {f"{name}-{stamp}.npz" for name, stamp in _stamps(root)}
    found: list[Path] = []
    for home in _views(cache):
        used: set[str] = set()
        for entry in sorted((home / LISTS).glob("*.npz")):
            try:
                if entry.name not in stamps:
                    raise ValueError("of a list that has changed")
                with np.load(entry, allow_pickle=False) as file:
                    used |= set(file["segments"].tolist())
            except DAMAGE:
                found.append(entry)
        found += [folder for folder in segments_of(home) if folder.name not in used]
        found += sorted(home.glob(f"{DRAFT}*"))
    return found


def remove(paths: Iterable[Path]) -> None:
    """Remove what `unneeded` has found; not while a cache is built, for its draft may be there."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def unmarked(cache: Path) -> list[Path]:
    """Folders called like a view's that do not carry the mark: somebody's own, or of old code."""
    named = (path.parent for path in cache.glob(f"v*/{LISTS}"))
    return sorted(path for path in named if not _is_marked(path))


def _views(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.glob(f"v*/{MARKER}") if _is_marked(path.parent))


def _is_marked(home: Path) -> bool:
    try:
        return read_bytes(home / MARKER, 4096).decode() == SIGNATURE
    except (OSError, UnicodeDecodeError):
        return False


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
