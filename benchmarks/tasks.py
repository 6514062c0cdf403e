"""The task table (tasks.csv): names, classes and list lengths, never taken from the lists."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from methods.registry import nearest

from .config import ConfigError

TABLE = Path(__file__).with_name("tasks.csv")
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
    notes: str


@cache
def benchmarks() -> dict[str, dict[str, Task]]:
    """All tasks by benchmark and name, in the order of the table."""
    found: dict[str, dict[str, Task]] = {}
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            task = Task(
                row["benchmark"],
                row["name"],
                row["label"],
                row["group"],
                int(row["num_classes"]),
                {split: int(row[f"n_{split}"]) for split in SPLITS},
                row["hflip_safe"] == "yes",
                row["notes"],
            )
            found.setdefault(task.benchmark, {})[task.name] = task
    return found


def get(benchmark: str, name: str) -> Task:
    """A task by benchmark and name.

    Raises:
        ConfigError: there is no such benchmark or task.
    """
    if benchmark not in benchmarks():
        raise ConfigError(f"unknown benchmark {benchmark!r}; {nearest(benchmark, benchmarks())}")
    tasks = benchmarks()[benchmark]
    if name not in tasks:
        raise ConfigError(f"unknown task {name!r} of {benchmark}; {nearest(name, tasks)}")
    return tasks[name]


def select(benchmark: str, wanted: Iterable[str] | None) -> list[Task]:
    """The benchmark's tasks, or the `wanted` ones by name or label, in the table's order.

    Raises:
        ConfigError: one of them is unknown.
    """
    tasks = benchmarks()[benchmark]
    if wanted is None:
        return list(tasks.values())
    by_label = {task.label.lower(): task.name for task in tasks.values()}
    chosen = {by_label.get(word.lower(), word) for word in wanted}
    return [get(benchmark, name) for name in sorted(chosen, key=[*tasks, *chosen].index)]
