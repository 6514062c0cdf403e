"""Checks whether the data under a folder is what the papers used: every list, label and image.

A `Finding` names a file and line with something wrong, or with something worth a note.
Published archives differ in known ways (labels not binned, lists cut short, folders missing); a
finding says so where it recognises one.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..tasks import SPLITS, Task, benchmarks
from .cache import in_order, pixels_fingerprint, read_image
from .decode import View, decode
from .lists import DataError, Listing, locate, parse

MOST = 5  # findings of one kind that are written out
OWN = View(0, "own")
# labels as the source has them, for tasks whose archives are known to keep them so: task -> (least,
# greatest, what to do about it)
RAW = {
    "svhn": (1, 10, "digit 0 is written as 10, expected 0"),
    "clevr_count": (3, 10, "numbers of objects, expected these minus 3"),
    "dsprites_loc": (0, 31, "raw x positions, expected 16 bins: half of these"),
    "dsprites_ori": (0, 39, "the 40 raw orientations, expected 16 bins: these / 2.5, rounded down"),
    "smallnorb_azi": (0, 34, "raw azimuths, expected half of these"),
    "smallnorb_ele": (30, 70, "elevations in degrees, expected 0 to 8"),
}
# symmetric shapes and 0 = 360 degrees make equal images, in train and test too
HAS_DUPLICATES = ("dsprites_loc", "dsprites_ori")


@dataclass(frozen=True)
class Finding:
    """where: file and line (or folder); wrong: False for what is only worth knowing."""

    where: str
    message: str
    wrong: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class TaskReport:
    """What was found for one task. images: by split; variant: jpeg, lossless or mixed."""

    benchmark: str
    task: str
    folder: str
    images: dict[str, int] = field(default_factory=dict)
    variant: str = ""
    fingerprint: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        return any(finding.wrong for finding in self.findings)

    def to_dict(self) -> dict:
        return {**asdict(self), "ok": not self.wrong}


Progress = Callable[[str, int, int], None]


def find_tasks(root: Path, wanted: Iterable[str] | None) -> tuple[list[Task], list[Finding]]:
    """The tasks that have a folder under `root`, and a finding for each incomplete benchmark.

    Raises:
        DataError: none is there, or a wanted one is not.
    """
    words = None if wanted is None else {word.lower() for word in wanted}
    present: list[Task] = []
    missing: list[Finding] = []
    for benchmark, tasks in benchmarks().items():
        absent = []
        for task in tasks.values():
            names = {word.lower() for word in (task.name, task.label, *task.aliases)}
            if words is not None and not names & words:
                continue
            try:
                locate(root, task)
                present.append(task)
            except DataError:
                absent.append(task.name)
        if words is None and absent and len(absent) < len(tasks):
            here = f"{len(tasks) - len(absent)} of {len(tasks)} tasks"
            message = f"an incomplete archive: {here}; missing: {', '.join(absent)}"
            missing.append(Finding(str(root / benchmark), message))
    named = {word.lower() for task in present for word in (task.name, task.label, *task.aliases)}
    for word in sorted((words or set()) - named):
        raise DataError(f"{root}: no task {word!r} there; see `rlrr-bench data layout`")
    if not present:
        expected = "expected folders vtab-1k, fgvc or cifar100"
        raise DataError(f"{root}: no task there; {expected}; see `rlrr-bench data layout`")
    return present, missing


def check(
    root: Path, task: Task, smoke: bool = False, progress: Progress | None = None
) -> TaskReport:
    """Look at every list, label and image of a task.

    Args:
        smoke: accept short lists and missing classes.
        progress: called now and then with (task, images done, images).
    """
    report = TaskReport(task.benchmark, task.name, str(locate(root, task)))
    listings: dict[str, Listing] = {}
    for split in SPLITS:
        try:
            listing, problems = parse(root, task, split)
        except DataError as error:
            where, _, message = str(error).partition(": ")
            report.findings.append(Finding(where, message))
            continue
        listings[split] = listing
        report.images[split] = len(listing.names)
        shown = [Finding(p.where, p.message) for p in problems]
        report.findings += _shortened(shown, f"{listing.file}", "lines like it")
        if not smoke:
            report.findings += _length(task, split, listing)
    report.findings += _labels(task, listings, smoke)
    digests = _images(task, listings, report, progress)
    if {"trainval", "test"} <= digests.keys():
        report.findings += _duplicates(task, listings, digests)
        report.fingerprint = "+".join(
            pixels_fingerprint(np.array(listings[s].labels), _packed(digests[s]))
            for s in ("trainval", "test")
        )
    unique = list(
        {(finding.where, finding.message): finding for finding in report.findings}.values()
    )
    report.findings = unique
    return report


def _length(task: Task, split: str, listing: Listing) -> list[Finding]:
    number, expected = len(listing.names), task.sizes[split]
    if number == expected:
        return []
    message = f"found {number} images, expected {expected}"
    if task.name == "sun397" and split == "test" and number == expected - 1:
        message += " (the archive that leaves out the image that TFDS cannot decode)"
    return [Finding(str(listing.file), message)]


def _labels(task: Task, listings: dict[str, Listing], smoke: bool) -> list[Finding]:
    """Sets of labels that archives are known to have left as the source has them."""
    labels = {label for listing in listings.values() for label in listing.labels}
    if task.layout == "json":  # reading maps its class ids to labels, and counts them
        labels = set()
    findings = []
    if labels:
        low, high = min(labels), max(labels)
        where = next(
            listing.where(listing.labels.index(high))
            for listing in listings.values()
            if high in listing.labels
        )
        if high >= task.num_classes:
            least, greatest, advice = RAW.get(task.name, (1, task.num_classes, "they begin at 1"))
            if least <= low and high <= greatest:
                findings.append(Finding(where, f"labels are {low} to {high}: {advice}"))
        elif task.name == "caltech101" and high == task.num_classes - 2 and not smoke:
            message = "labels are 0 to 100: 101 classes, expected 102 with background_google"
            return [Finding(where, message)]
    if "test" in listings and listings["test"].labels and not smoke:
        listing = listings["test"]
        absent = sorted(set(range(task.num_classes)) - set(listing.labels))
        if absent and len(listing.labels) >= task.num_classes:
            some = ", ".join(map(str, absent[:MOST])) + ", ..." * (len(absent) > MOST)
            shown = f"{task.num_classes - len(absent)} of {task.num_classes} classes"
            findings.append(Finding(str(listing.file), f"it shows {shown}; missing: {some}"))
    return findings


def _images(
    task: Task, listings: dict[str, Listing], report: TaskReport, progress: Progress | None
) -> dict[str, list[bytes | None]]:
    """Read and decode every image; returns each file's SHA-256 by split, None if it is broken."""
    # a file that several lists name is read once
    entries = {
        (listing.names[i], listing.offsets[i] if listing.offsets else 0): (listing, i)
        for listing in listings.values()
        for i in range(len(listing.names))
    }
    known: set[bytes] = set()

    def look(entry: tuple[Listing, int]) -> tuple[bytes | None, str, str]:
        """An image's SHA-256, its variant, and what is wrong with it."""
        listing, number = entry
        if not listing.path(number).is_file():
            return None, "", f"no such file {listing.path(number)}"
        try:
            raw = read_image(listing, number)
            digest = hashlib.sha256(raw).digest()
            if digest not in known:
                decode(raw, OWN, planes=listing.offsets is not None)
                known.add(digest)
            jpeg = raw[:2] == b"\xff\xd8" and listing.offsets is None
            return digest, "jpeg" if jpeg else "lossless", ""
        except DataError as error:
            return None, "", str(error).rpartition(": ")[2]
        except ValueError as error:
            return None, "", f"{listing.path(number)}: {error}"

    digests: dict[tuple[str, int], bytes | None] = {}
    variants: set[str] = set()
    findings = []
    for done, (key, (digest, variant, message)) in enumerate(
        zip(entries, in_order(look, entries.values()), strict=True), start=1
    ):
        digests[key] = digest
        if message:
            listing, number = entries[key]
            findings.append(Finding(listing.where(number), message))
        else:
            variants.add(variant)
        if progress and (done % 50 == 0 or done == len(entries)):
            progress(task.name, done, len(entries))
    report.variant = variants.pop() if len(variants) == 1 else "mixed" if variants else ""
    if report.variant == "mixed":
        findings.append(Finding(report.folder, "JPEG and lossless images are mixed"))
    report.findings += _shortened(findings, report.folder, "images like it")
    return {
        split: [
            digests[name, listing.offsets[i] if listing.offsets else 0]
            for i, name in enumerate(listing.names)
        ]
        for split, listing in listings.items()
    }


def _duplicates(
    task: Task, listings: dict[str, Listing], digests: dict[str, list[bytes | None]]
) -> list[Finding]:
    """Test images that are in trainval too; whether trainval is train and val together."""
    trained = {digest: i for i, digest in enumerate(digests["trainval"]) if digest}
    findings = []
    for number, digest in enumerate(digests["test"]):
        if digest in trained:
            other = listings["trainval"].where(trained[digest])
            findings.append(Finding(listings["test"].where(number), f"same image as {other}"))
    file = str(listings["test"].file)
    if findings and task.name in HAS_DUPLICATES:
        message = f"{len(findings)} test images are in train too, as symmetric shapes bring about"
        findings = [Finding(file, message, wrong=False)]
    findings = _shortened(findings, file, "test images that are in train too")
    if {"train", "val"} <= digests.keys():
        both = digests["train"] + digests["val"]
        if sorted(map(str, both)) != sorted(map(str, digests["trainval"])):
            message = "its images are not those of train and val together"
            findings.append(Finding(str(listings["trainval"].file), message, wrong=False))
    return findings


def _shortened(findings: list[Finding], where: str, what: str) -> list[Finding]:
    if len(findings) <= MOST:
        return findings
    more = Finding(where, f"and {len(findings) - MOST} more {what}", findings[0].wrong)
    return [*findings[:MOST], more]


def _packed(digests: list[bytes | None]) -> np.ndarray:
    whole = b"".join(digest or bytes(32) for digest in digests)
    return np.frombuffer(whole, np.uint8).reshape(-1, 32)
