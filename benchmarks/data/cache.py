"""Decoded images on disk: each distinct image once, shared by all runs and processes.

    CACHE/<view>/<segment>/{pixels.bin,index.npz}     decoded rows; SHA-256 of each image file
    CACHE/<view>/lists/<list>-<stamp>.npz             which rows make a split, and its fingerprint

A split is rows of one or more segments, so tasks that show the same images (CLEVR, dSprites and
SmallNORB come in pairs) and splits that repeat each other (train800val200) share rows. The content
of an image file identifies its row. To spare a warm start reading 73,728 files, lists/ remembers
the content under a stamp: names, sizes, times and inodes of the files. A list with a file that was
written less than two seconds ago gets no stamp, because the file may change again without its time
changing.

Segments and lists are written under another name and renamed: readers see all or nothing. A lock
spares a second builder the work; on a file system without locks both build the same.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..files import open_regular, replacing, write_text
from ..tasks import Task
from .decode import View, decode
from .lists import DataError, Listing, check_files, read_list
from .rows import Images, Segment

FORMAT = 2  # part of the folder's name: raise it when decoding or the files' layout changes
RACY_NS = 2_000_000_000
MOST_OF_AN_IMAGE = 2**28  # bytes
LISTS = "lists"
SEGMENT = re.compile(r"[0-9a-f]{16}")
# by it a view's folder is known as one of ours, and only such a folder is ever tidied up; the first
# line is what backup programs look for (bford.info/cachedir)
MARKER = "CACHEDIR.TAG"
SIGNATURE = """Signature: 8a477f597d28d172789f06886806bc55
# Decoded images of rlrr-bench. `rlrr-bench data cache DIR --prune` removes what is not needed.
"""
DRAFT = ".building-"
# what reading a truncated or overwritten file raises; not every OSError, since a disk's hiccup must
# not delete a cache
DAMAGE = (FileNotFoundError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile)
T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Split:
    """Decoded images and their labels.

    images: uint8, N x height x width x 3, read-only, usually memory-mapped; labels: int64, N.
    fingerprint: hash of the labels and the bytes of the image files; variant: their file format.
    """

    images: Images | np.ndarray
    labels: np.ndarray
    fingerprint: str
    variant: str


def open_split(
    root: Path,
    task: Task,
    split: str,
    view: View,
    *,
    cache: Path | None = None,
    smoke: bool = False,
    progress: Progress | None = None,
) -> Split:
    """A split, decoded. What the cache (default DATA/.cache) lacks is decoded and added to it.

    Args:
        view: how the images are resized and cut.
        progress: called now and then with (images done, images) while the cache is built.

    Raises:
        DataError: see `read_list`, `check_files` and `decode`, or the cache cannot be written.
    """
    listing = read_list(root, task, split, smoke)
    labels = np.asarray(listing.labels, dtype=np.int64)
    labels.setflags(write=False)
    stamp, newest = stamp_of(listing)
    home = view_folder(cache or root / ".cache", view)
    entry = home / LISTS / f"{task.benchmark}-{task.name}-{split}-{stamp}.npz"
    try:
        cached = _open_entry(home, entry)
        if cached is None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            _mark(home)
            with _lock(home):
                cached = _open_entry(home, entry)  # another process may have built it meanwhile
                if cached is None:
                    trusted = time.time_ns() - newest > RACY_NS
                    rows = _build(home, listing, view, progress)
                    cached = _open_rows(home, rows)
                    if trusted:
                        _write_npz(entry, **rows)
    except OSError as error:
        message = f"the cache cannot be read or written: {error.strerror}"
        raise DataError(f"{home}: {message}") from None
    with suppress(OSError):  # a cache of an older version, perhaps one that may only be read
        _mark(home)
    images, digests = cached
    return Split(images, labels, pixels_fingerprint(labels, digests), variant_of(listing))


def current_fingerprint(
    root: Path, task: Task, split: str, *, cache: Path | None = None, smoke: bool = False
) -> str:
    """The fingerprint that `open_split` would give, without decoding anything.

    It takes the digests that the cache has under the list's stamp, in any view; without them it
    reads every image file.

    Raises:
        DataError: see `read_list` and `check_files`.
    """
    listing = read_list(root, task, split, smoke)
    stamp, _ = stamp_of(listing)
    name = f"{task.benchmark}-{task.name}-{split}-{stamp}.npz"
    for entry in (cache or root / ".cache").glob(f"v{FORMAT}-*/{LISTS}/{name}"):
        try:
            with np.load(entry, allow_pickle=False) as file:
                return pixels_fingerprint(np.asarray(listing.labels), file["digests"])
        except DAMAGE:
            continue

    def digest(number: int) -> bytes:
        return hashlib.sha256(read_image(listing, number)).digest()

    whole = b"".join(in_order(digest, range(len(listing.names))))
    return pixels_fingerprint(
        np.asarray(listing.labels), np.frombuffer(whole, np.uint8).reshape(-1, 32)
    )


def view_folder(cache: Path, view: View) -> Path:
    return cache / f"v{FORMAT}-{view.name}"


def pixels_fingerprint(labels: np.ndarray, digests: np.ndarray) -> str:
    """16 hex digits over a split's labels and the digests of its image files."""
    content = hashlib.sha256(np.asarray(labels, dtype=np.int64).tobytes())
    content.update(np.ascontiguousarray(digests, dtype=np.uint8).tobytes())
    return content.hexdigest()[:16]


def variant_of(listing: Listing) -> str:
    """The file format of the images by the first one's name: jpg, png, bin."""
    return listing.names[0].rpartition(".")[2].lower() if listing.names else ""


def stamp_of(listing: Listing) -> tuple[str, int]:
    """A hash of what a list's image files are on disk, and the latest of their times of writing.

    Names, sizes, both times and numbers of files: what replaces a file may have its size and time.
    """
    stats = check_files(listing)
    text = "\n".join(listing.names)
    facts = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in stats]
    times = np.array(facts, dtype=np.uint64).astype(np.int64)
    offsets = np.array(listing.offsets or (), dtype=np.int64)
    whole = hashlib.sha256(text.encode() + b"\0" + times.tobytes() + offsets.tobytes())
    return whole.hexdigest()[:16], int(times[:, 1].max())


def read_image(listing: Listing, number: int) -> bytes:
    """The bytes of an image: a whole file, or its part of a file that several images share.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        most = MOST_OF_AN_IMAGE if listing.offsets is None else None
        with open_regular(listing.path(number), most) as file:
            if listing.offsets is None:
                return file.read()
            file.seek(listing.offsets[number])
            return file.read(3 * 32 * 32)
    except OSError as error:
        where = f"{listing.where(number)}: {listing.path(number)}"
        raise DataError(f"{where}: cannot be read: {error.strerror}") from None


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of each item, in order, by a few threads that run only a little ahead."""
    workers = min(16, os.cpu_count() or 1)
    waiting: deque = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def segments_of(home: Path) -> list[Path]:
    """The finished segments of a view, by name."""
    return sorted(path.parent for path in home.glob("[0-9a-f]*/index.npz"))


def _build(
    home: Path, listing: Listing, view: View, progress: Progress | None
) -> dict[str, np.ndarray]:
    """Read every image of the list, decode those that no segment has, write these as a new segment.

    Returns the list's entry: names of its segments; each image's segment number, row and digest.
    """
    names = [folder.name for folder in segments_of(home)]
    known: dict[bytes, tuple[int, int]] = {}
    for number, name in enumerate(names):
        for row, digest in enumerate(_digests(home / name)):
            known[digest] = (number, row)

    def work(number: int) -> tuple[bytes, np.ndarray | None]:
        raw = read_image(listing, number)
        digest = hashlib.sha256(raw).digest()
        if digest in known:
            return digest, None
        try:
            return digest, decode(raw, view, planes=listing.offsets is not None)
        except ValueError as error:
            raise DataError(f"{listing.where(number)}: {listing.path(number)}: {error}") from None

    total = len(listing.names)
    order: list[bytes] = []
    new: list[bytes] = []
    shapes: list[tuple[int, int]] = []
    draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=home))
    try:
        with (draft / "pixels.bin").open("wb") as file:
            for digest, image in in_order(work, range(total)):
                order.append(digest)
                if digest not in known and image is not None:
                    known[digest] = (len(names), len(new))
                    new.append(digest)
                    shapes.append(image.shape[:2])
                    file.write(np.ascontiguousarray(image).data)
                if progress and (len(order) % 50 == 0 or len(order) == total):
                    progress(len(order), total)
        if new:
            names.append(_finish(home, draft, new, shapes))
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    rows = np.array([known[digest] for digest in order], dtype=np.int64)
    used, which = np.unique(rows[:, 0], return_inverse=True)
    return {
        "segments": np.array([names[number] for number in used]),
        "which": which.astype(np.int32),
        "row": rows[:, 1].astype(np.int64),
        "digests": np.frombuffer(b"".join(order), np.uint8).reshape(-1, 32),
    }


def _finish(home: Path, draft: Path, new: list[bytes], shapes: list[tuple[int, int]]) -> str:
    """Rename a draft to a hash of what it holds; returns that name."""
    digests = b"".join(new)
    name = hashlib.sha256(digests).hexdigest()[:16]
    np.savez(
        draft / "index.npz",
        digests=np.frombuffer(digests, np.uint8).reshape(-1, 32),
        shapes=np.array(shapes, dtype=np.int32),
    )
    os.chmod(draft, 0o755)
    try:
        os.rename(draft, home / name)
    except OSError:  # another process was faster; its copy is as good
        if _open_segment(home / name) is None:
            os.rename(draft, home / name)
    return name


def _digests(folder: Path) -> list[bytes]:
    """Digests of a segment's rows; a damaged segment is removed and has none."""
    if _open_segment(folder) is None:
        return []
    return [digest.tobytes() for digest in Segment.digests(folder)]


def _open_segment(folder: Path) -> Segment | None:
    """A segment; None, and the folder is removed, if it is damaged."""
    try:
        return Segment(folder)
    except DAMAGE:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _open_rows(home: Path, entry: Any) -> tuple[Images, np.ndarray]:
    """The images of a list's entry, and their digests; ValueError if they are not all there."""
    names = [str(name) for name in entry["segments"]]
    if not all(SEGMENT.fullmatch(name) for name in names):
        raise ValueError("the name of a segment leads elsewhere")
    opened = [_open_segment(home / name) for name in names]
    segments = [segment for segment in opened if segment is not None]
    if len(segments) < len(opened):
        raise ValueError("a segment is missing or damaged")
    which, row = entry["which"], entry["row"]
    if len(which) != len(row) or len(row) != len(entry["digests"]):
        raise ValueError("rows and digests differ in number")
    for number, segment in enumerate(segments):
        rows = row[which == number]
        if ((rows < 0) | (rows >= len(segment.shapes))).any():
            raise ValueError("a row lies outside of its segment")
    if ((which < 0) | (which >= len(segments))).any():
        raise ValueError("a row of a segment that is not named")
    return Images(segments, which, row), entry["digests"]


def _open_entry(home: Path, path: Path) -> tuple[Images, np.ndarray] | None:
    """A split by its stamp; None if it is not there, or if it or one of its segments is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            entry = {key: file[key] for key in ("segments", "which", "row", "digests")}
        return _open_rows(home, entry)
    except FileNotFoundError:
        return None
    except DAMAGE:
        path.unlink(missing_ok=True)
        return None


def _write_npz(path: Path, **arrays: np.ndarray) -> None:
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stubs forget names


def _mark(home: Path) -> None:
    """Mark a view's folder as one of ours."""
    if not (home / MARKER).exists():
        write_text(home / MARKER, SIGNATURE)


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Keep other builders of this view out. A lock ends with its process, so none is left over.

    Drafts found once the lock is held are those of killed builders, and are removed.
    """
    with (home / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            for draft in [*home.glob(f"{DRAFT}*"), *home.glob(f"{LISTS}/.*")]:
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
        except OSError:  # no locks here: build without
            pass
        yield
