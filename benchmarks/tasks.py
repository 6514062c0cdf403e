"""The task table (tasks.csv): names, classes and list lengths, never taken from the lists."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast

from ..methods.errors import ConfigError, nearest

TABLE = Path(__file__).with_name("tasks.csv")
Layout = Literal["lists", "json", "cifar"]
SPLITS = ("train", "val", "trainval", "test")


@dataclass(frozen=True)
class Task:
    """One row of tasks.csv; `sizes` maps the splits train, val, trainval, test to image counts."""

    benchmark: str
    name: str  # also the folder's name
    label: str  # the column heading in the paper's tables
    group: str
    num_classes: int
    sizes: dict[str, int]
    hflip_safe: bool  # whether a mirrored image keeps its label
    layout: Layout  # how its folder is read: data/lists.py
    aliases: tuple[str, ...]  # other names and folder spellings that papers and archives use
    source: str  # where the data set comes from, with the version that the papers used
    notes: str


@cache
def benchmarks() -> dict[str, dict[str, Task]]:
    """All tasks by benchmark and name, in the order of the table."""
    table: dict[str, dict[str, Task]] = {}
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            task = Task(
                benchmark=row["benchmark"],
                name=row["name"],
                label=row["label"],
                group=row["group"],
                num_classes=int(row["num_classes"]),
                sizes={split: int(row[f"n_{split}"]) for split in SPLITS},
                hflip_safe=row["hflip_safe"] == "yes",
                layout=cast(Layout, row["layout"]),
                aliases=tuple(row["aliases"].split()),
                source=row["source"],
                notes=row["notes"],
            )
            table.setdefault(task.benchmark, {})[task.name] = task
    return table


def get(benchmark: str, name: str) -> Task:
    """A task by benchmark and its name, label or alias, in upper or lower case.

    Raises:
        ConfigError: there is no such benchmark or task.
    """
    if benchmark not in benchmarks():
        raise ConfigError(f"unknown benchmark {benchmark!r}; {nearest(benchmark, benchmarks())}")
    tasks = benchmarks()[benchmark]
    if name in tasks:
        return tasks[name]
    known = {
        word.lower(): task
        for task in tasks.values()
        for word in (*task.aliases, task.label, task.name)
    }
    if name.lower() not in known:
        raise ConfigError(f"unknown task {name!r} of {benchmark}; {nearest(name, tasks)}")
    return known[name.lower()]


def select(benchmark: str, wanted: Iterable[str] | None) -> list[Task]:
    """The benchmark's tasks, or the `wanted` ones by name, label or alias, in the table's order.

    Raises:
        ConfigError: one of them is unknown.
    """
    tasks = benchmarks()[benchmark]
    if wanted is None:
        return list(tasks.values())
    chosen = {get(benchmark, word).name for word in wanted}
    return [task for name, task in tasks.items() if name in chosen]
