"""Look after the data folder.

    rlrr-bench data layout              what goes where, and where it comes from
    rlrr-bench data check DIR           look at every list, label and image
    rlrr-bench data cache DIR --size    how large the decoded images are; --prune: tidy up

Exit code 0: all is well; 1: something in the data is wrong; 2: the command is.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ...benchmarks.extensions import extensions
from ...benchmarks.files import write_text
from ...benchmarks.tasks import SPLITS, benchmarks
from ...methods.errors import InputError
from . import flags

LAYOUTS = {
    "lists": "images/..., train800.txt, val200.txt, train800val200.txt, test.txt ('path label')",
    "json": "train.json, val.json, test.json (and trainval.json) {'path': class id}; paths lie "
    "below the folder, its images/ or its Images/",
    "cifar": "train.bin, test.bin",
}
ARCHIVES = """The two variants of VTAB-1k, which never go into one table together:
  JPEG archive  made by NOAH's script, used by SSF, FacT, ARC and RLRR: images re-encoded as JPEG
                of quality 75. On Hugging Face as XiN0919/VTAB-1k (vtab-1k.zip, 4.66 GB); SSF's,
                ARC's and RLRR's pages link a OneDrive copy. An incomplete copy (12 of
                the 19 tasks) circulates.
  TFDS pixels   the same lists written without loss (PNG) from TFDS, which VPT read directly.
FGVC: VPT's lists (its links are reported dead; XiN0919/FGVC on Hugging Face has a json.zip), and
the images from each data set's own page. No link is promised to work."""


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "data", __doc__, "what the data should look like, and check it")
    inside = parser.add_subparsers(dest="command", required=True, parser_class=type(parser))
    c = inside.add_parser("layout", help="what goes where, and where it comes from")
    c.set_defaults(do=layout)
    c = inside.add_parser("check", help="look at every list, label and image")
    c.set_defaults(do=check)
    c.add_argument("folder", type=Path, metavar="DIR", help="holds vtab-1k/, fgvc/, cifar100/")
    c.add_argument("--tasks", metavar="T,..", help="only these, by folder, heading or alias")
    c.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    c.add_argument("--smoke", action="store_true", help="accept short lists")
    c = inside.add_parser("cache", help="the decoded images")
    c.set_defaults(do=cache)
    c.add_argument("folder", type=Path, metavar="DIR", help="the data folder")
    c.add_argument("--cache", type=Path, metavar="DIR", help="default DIR/.cache")
    c.add_argument("--size", action="store_true", help="how large it is (the default)")
    c.add_argument("--prune", action="store_true", help="list what no list here needs, and ask")
    c.add_argument("--yes", action="store_true", help="with --prune: remove it without asking")


def _must_exist(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")


def layout(arguments: argparse.Namespace, console: Console) -> int:
    """Print what goes where."""
    for benchmark, tasks in benchmarks().items():
        if benchmark in extensions():  # brings its own images
            continue
        table = Table("folder", "or", *SPLITS, "classes", "source", box=None, title_justify="left")
        for task in tasks.values():
            sizes = [str(task.sizes[split]) for split in SPLITS]
            others = ", ".join(task.aliases)
            table.add_row(task.name, others, *sizes, str(task.num_classes), task.source)
        console.print(f"[bold]DIR/{benchmark}/<folder>/[/bold]")
        console.print(f"  {LAYOUTS[task.layout]}", soft_wrap=True)
        console.print(table, "")
    console.print(ARCHIVES, soft_wrap=True, markup=False)
    return 0


def check(arguments: argparse.Namespace, console: Console) -> int:
    """Look at every list, label and image, and say what is wrong."""
    _must_exist(arguments.folder)
    from ...benchmarks.data import check as checking

    tasks, findings = checking.find_tasks(arguments.folder, flags.words(arguments.tasks))
    reports = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as shown:
        for number, task in enumerate(tasks, start=1):
            bar = shown.add_task(f"{number}/{len(tasks)} {task.name}", total=None)

            def report(_: str, done: int, total: int, bar: TaskID = bar) -> None:
                shown.update(bar, completed=done, total=total)

            reports.append(checking.check(arguments.folder, task, arguments.smoke, report))
            shown.remove_task(bar)
    table = Table("task", *SPLITS, "pixels", "fingerprint", "", box=None)
    for report_of in reports:
        sizes = [str(report_of.images.get(split, "-")) for split in SPLITS]
        verdict = "wrong" if report_of.wrong else "ok"
        named = (report_of.task, *sizes, report_of.variant, report_of.fingerprint)
        table.add_row(*named, verdict)
        findings += report_of.findings
    console.print(table)
    for finding in findings:
        mark = "wrong" if finding.wrong else "note "
        console.print(f"{mark} {finding}", soft_wrap=True, markup=False)
    wrong = sum(finding.wrong for finding in findings)
    console.print(f"{len(reports)} tasks, {wrong} things wrong")
    if arguments.json:
        content = {
            "ok": not wrong,
            "findings": [vars(finding) for finding in findings],
            "tasks": [report_of.to_dict() for report_of in reports],
        }
        try:
            write_text(arguments.json, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            message = f"--json: {arguments.json}: cannot be written: {error.strerror}"
            raise InputError(message) from None
    return 1 if wrong else 0


def _prune(arguments: argparse.Namespace, folder: Path, console: Console) -> None:
    """List what is not needed any more, and remove it if that is wanted."""
    from ...benchmarks.data import upkeep

    for path in upkeep.unmarked(folder):
        text = f"left alone  {path}: not marked as a cache of this project"
        console.print(text, style="yellow", markup=False, soft_wrap=True)
    paths = upkeep.unneeded(arguments.folder, folder)
    total = 0
    for path in paths:
        size = upkeep.size_of(path)
        total += size
        console.print(f"{size / 2**20:8.1f} MiB  {path}", markup=False, soft_wrap=True)
    console.print(f"{total / 2**20:8.1f} MiB in {len(paths)} places that no list needs")
    if not paths:
        return
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise InputError("--prune: nothing was removed; --yes removes what is listed above")
        if console.input("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            console.print("nothing was removed")
            return
    upkeep.remove(paths)
    console.print(f"{total / 2**20:.1f} MiB freed")


def cache(arguments: argparse.Namespace, console: Console) -> int:
    """Say how large the decoded images are; tidy them up."""
    _must_exist(arguments.folder)
    from ...benchmarks.data import upkeep

    folder = arguments.cache or arguments.folder / ".cache"
    if arguments.prune:
        _prune(arguments, folder, console)
    table = Table("view", "lists", "images", "MiB", box=None)
    views = upkeep.usage(folder)
    for view in views:
        table.add_row(view.view, str(view.lists), str(view.images), f"{view.bytes / 2**20:.1f}")
    console.print(table)
    console.print(f"{sum(view.bytes for view in views) / 2**20:.1f} MiB in {folder}")
    return 0
