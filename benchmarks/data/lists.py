"""The layouts: which images a split has, and their labels, checked against the task table.

    lists   DATA/vtab-1k/<task>/{train800,val200,train800val200,test}.txt   "images/... LABEL"
    json    DATA/fgvc/<task>/{train,val,test}.json (and trainval.json)      {"path": class id}
    cifar   DATA/cifar100/cifar-100-binary/{train,test}.bin                 3074 bytes an image

The paths of a json layout lie below the task's folder, its images/ or its Images/, which archives
spell differently; so do folders (tasks.csv, column aliases). Without trainval.json, trainval is
train, then val. Class ids become labels 0 .. C-1 by one map, built from all the splits together:
a split alone may miss classes. CIFAR-100's python version is a pickle and is not read.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ...methods.errors import ConfigError
from ..files import read_bytes, refuse_irregular
from ..tasks import Task

FILES = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
MOST_OF_A_LIST = 2**28  # bytes
CIFAR_RECORD = 2 + 32 * 32 * 3  # coarse label, fine label, red plane, green plane, blue plane


class DataError(ConfigError):
    """Something is wrong with a data folder; one line that names the file and line."""


@dataclass(frozen=True)
class Listing:
    """The images of a split, in order.

    file: the list; folder: what `names` are relative to; labels: as read, one an image.
    parts: the files that were read, each with its number of images; marks: where each image is
        listed in its file, as a line number, "key ..." or "record ...".
    offsets: where an image begins in its file, if several share one (raw 32 x 32 pixels).
    """

    file: Path
    folder: Path
    names: list[str]
    labels: list[int]
    parts: tuple[tuple[Path, int], ...]
    marks: Sequence[int | str]
    offsets: list[int] | None = None

    @cached_property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]

    def path(self, number: int) -> Path:
        return self.folder / self.names[number]

    def where(self, number: int) -> str:
        """The file and line (or key) that lists image `number`, counted from 0."""
        mark, file = self.marks[number], self.file
        for part, count in self.parts:
            file = part
            if number < count:
                break
            number -= count
        return location(file, mark)


@dataclass(frozen=True)
class Problem:
    """Something wrong in a list: where ("file:line"), and what is there and was expected."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def location(file: Path, mark: int | str) -> str:
    """How a message names a line, key or record of a file."""
    return f"{file}:{mark}" if isinstance(mark, int) else f"{file}: {mark}"


def read_list(root: Path, task: Task, split: str, smoke: bool = False) -> Listing:
    """The images of a split, checked against the task table.

    Args:
        root: the data folder, which holds one folder a benchmark.
        smoke: accept a list of another length than the table says, and fewer classes.

    Raises:
        DataError: a missing folder or file, a line that is no "path label", a label out of range, a
            path that leaves the folder, or the wrong number of images.
    """
    listing, problems = parse(root, task, split)
    if problems:
        raise DataError(str(problems[0]))
    if task.layout == "json" and not smoke:
        classes = class_map(locate(root, task))
        if len(classes) != task.num_classes:
            expected = f"expected {task.num_classes}"
            raise DataError(f"{listing.file.parent}: its lists name {len(classes)} ids, {expected}")
    if len(listing.names) != task.sizes[split] and not (smoke and listing.names):
        number, size = len(listing.names), task.sizes[split]
        raise DataError(f"{listing.file}: found {number} images, expected {size}")
    return listing


def check_files(listing: Listing) -> list[os.stat_result]:
    """The stat of every image file; a DataError names the first that is missing."""
    stats: list[os.stat_result] = []
    base = f"{listing.folder}{os.sep}"
    last = None
    for number, name in enumerate(listing.names):
        if name == last:
            stats.append(stats[-1])
            continue
        try:
            stats.append(os.stat(base + name))
            refuse_irregular(stats[-1])
        except OSError as error:
            where, known = listing.where(number), isinstance(error, FileNotFoundError)
            told = f"no such file {base}{name}" if known else f"{base}{name}: {error.strerror}"
            raise DataError(f"{where}: {told}") from None
        last = name
    return stats


def locate(root: Path, task: Task) -> Path:
    """The task's folder, in any of its spellings.

    Raises:
        DataError: there is none.
    """
    for name in (task.name, *task.aliases):
        if (root / task.benchmark / name).is_dir():
            return root / task.benchmark / name
    folder = root / task.benchmark / task.name
    raise DataError(f"{folder}: no such folder; expected task {task.name} there (see --data)")


def parse(root: Path, task: Task, split: str) -> tuple[Listing, list[Problem]]:
    """A split as it is on disk, of any length, and what is wrong with its lines.

    Raises:
        DataError: the folder or the list is missing or cannot be read at all.
    """
    folder = locate(root, task)
    return {"lists": _parse_lists, "json": _parse_json, "cifar": _parse_cifar}[task.layout](
        folder, task, split
    )


def _parse_lists(folder: Path, task: Task, split: str) -> tuple[Listing, list[Problem]]:
    """A text list of paths and labels; CRLF and blank lines are accepted."""
    file = folder / f"{FILES[split]}.txt"
    text = _text(file, f"expected {task.sizes[split]} lines 'path label'")
    names, labels, marks, problems = [], [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.rsplit(None, 1)
        if not words:
            continue
        if len(words) != 2 or not (words[1].isascii() and words[1].isdigit()):
            shown = line.rstrip("\r")
            message = f"found {shown!r}, expected 'path label'"
            problems.append(Problem(location(file, number), message))
            continue
        name, label = words[0].lstrip(), int(words[1])
        if label >= task.num_classes:
            message = f"found label {label}, expected 0 to {task.num_classes - 1}"
            problems.append(Problem(location(file, number), message))
        if _leaves(name):
            message = f"path {name!r} leaves the folder {folder}"
            problems.append(Problem(location(file, number), message))
            continue
        names.append(name)
        labels.append(label)
        marks.append(number)
    return Listing(file, folder, names, labels, ((file, len(names)),), marks), problems


def _parse_json(folder: Path, task: Task, split: str) -> tuple[Listing, list[Problem]]:
    files = [folder / f"{split}.json"]
    if split == "trainval" and not files[0].is_file():
        files = [folder / "train.json", folder / "val.json"]
    names: list[str] = []
    labels: list[int] = []
    marks: list[str] = []
    parts: list[tuple[Path, int]] = []
    problems: list[Problem] = []
    classes = class_map(folder)
    for file in files:
        pairs, wrong = _read_json(file, f"expected {task.sizes[split]} images: {{'path': class}}")
        problems += wrong
        if len(classes) > task.num_classes:
            message = f"its lists name {len(classes)} ids, expected {task.num_classes}"
            problems.append(Problem(str(folder), message))
        for key, value in pairs:
            if _leaves(key):
                message = f"path {key!r} leaves the folder {folder}"
                problems.append(Problem(location(file, f"key {key!r}"), message))
                continue
            names.append(key)
            labels.append(classes[value])
            marks.append(f"key {key!r}")
        parts.append((file, len(names) - sum(count for _, count in parts)))
    if names:
        below = next(
            (b for b in ("", "images/", "Images/") if (folder / (b + names[0])).exists()), ""
        )
        names = [below + name for name in names]
    return Listing(files[0], folder, names, labels, tuple(parts), marks), problems


def class_map(folder: Path) -> dict[int, int]:
    """The class ids in all of the folder's JSON lists -> labels 0 .. C-1, by rising id."""
    ids: set[int] = set()
    for split in FILES:
        file = folder / f"{split}.json"
        if file.is_file():
            ids.update(value for _, value in _read_json(file, "")[0])
    return {value: label for label, value in enumerate(sorted(ids))}


def _read_json(file: Path, expected: str) -> tuple[list[tuple[str, int]], list[Problem]]:
    """Valid pairs of path and class id, in order, and what is wrong with the others."""
    text = _text(file, expected)
    try:
        pairs = json.loads(text, object_pairs_hook=lambda items: items)  # with repeated keys
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # absurd numbers, absurd nesting
        raise DataError(f"{file}: not JSON: {error}") from None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise DataError(f"{file}: expected one object {{'path': class id}}")
    good, problems, seen = [], [], set()
    for key, value in pairs:
        if type(value) is not int or value < 0:
            message = f"found {value!r}, expected a class id"
            problems.append(Problem(location(file, f"key {key!r}"), message))
        elif key in seen:
            problems.append(Problem(location(file, f"key {key!r}"), "listed twice"))
        else:
            seen.add(key)
            good.append((key, value))
    return good, problems


def _parse_cifar(folder: Path, task: Task, split: str) -> tuple[Listing, list[Problem]]:
    file = folder / ("test.bin" if split == "test" else "train.bin")
    if not file.is_file():
        hint = "; the python version is a pickle, which is not read" * (folder / "train").is_file()
        raise DataError(f"{file}: no such file; expected CIFAR-100's binary version{hint}")
    size = file.stat().st_size
    if size == 0 or size % CIFAR_RECORD:
        raise DataError(f"{file}: found {size} bytes, expected a multiple of {CIFAR_RECORD}")
    records = np.memmap(file, np.uint8, "r").reshape(-1, CIFAR_RECORD)
    first, last = 0, len(records)
    if split in ("train", "val"):
        cut = last * task.sizes["train"] // task.sizes["trainval"]
        first, last = (0, cut) if split == "train" else (cut, last)
    labels = records[first:last, 1].tolist()
    marks = [f"record {number}" for number in range(first + 1, last + 1)]
    problems = [
        Problem(location(file, mark), f"found label {label}, expected 0 to {task.num_classes - 1}")
        for mark, label in zip(marks, labels, strict=True)
        if label >= task.num_classes
    ]
    offsets = [CIFAR_RECORD * number + 2 for number in range(first, last)]
    names = [file.name] * len(labels)
    return Listing(file, folder, names, labels, ((file, len(names)),), marks, offsets), problems


def _leaves(name: str) -> bool:
    """Whether a path is absolute, climbs out of its folder, or is no path at all."""
    return name.startswith("/") or "\0" in name or (".." in name and ".." in name.split("/"))


def _text(file: Path, expected: str) -> str:
    raw = b""
    try:
        raw = read_bytes(file, MOST_OF_A_LIST)
        return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise DataError(f"{file}: no such list; {expected}") from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{file}:{line}: not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
