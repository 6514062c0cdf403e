"""Specs: the rows and columns of the paper's tables as YAML. No torch is needed.

A spec says which method, options, backbone and recipe a row stands for; a profile says what the
names mean (the paper's, or the demo's). plan.py turns both into run configs.
"""

import dataclasses
import typing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from .. import methods
from ..benchmarks import tasks
from ..benchmarks.files import read_yaml
from ..methods.errors import ConfigError, nearest

FOLDER = Path(__file__).with_name("specs")
PROFILES = Path(__file__).with_name("profiles.yaml")
TABLES = {
    "2": ("table2",),
    "3": ("table3",),
    "4": ("table4a", "table4b"),
    "5": ("table5",),
    "6": ("table6",),
    "fig2": ("fig2",),
}
ORDERS = ("first", "last")  # which layers Fig. 2 adapts
COUNTED = ("trainable", "method")  # what the printed Params. column counts: with the head, without
SETTINGS = ("documented", "solved")  # how the options behind that column are known
PrintedRule = Literal["val", "best_10", "best", "unknown"]  # see docs/protocols.md
PRINTED_RULES: tuple[PrintedRule, ...] = typing.get_args(PrintedRule)


@dataclass(frozen=True)
class Row:
    """A row of a table: `key` on the command line and in files, `label` as printed.

    printed_rule says how the printed accuracies were selected, printed_source how that is known.
    params, setting, audit and remark are about the printed number of parameters (see table2.yaml);
    audit {option: {value: tasks}} says what it was computed with where `options` do not fit it.
    """

    key: str
    label: str
    method: str
    backbone: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    printed_rule: PrintedRule = "unknown"
    printed_source: str = ""
    params: str = "trainable"
    group: str = ""
    setting: str = "documented"
    audit: dict[str, dict[Any, int]] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Spec:
    """One table; `columns` is "tasks" or "groups" (only their means are printed).

    tasks: the benchmark's tasks that it is about; empty: all of them. ticks: options of the rows,
    true or false, that LaTeX shows as columns in place of labels.
    """

    name: str
    title: str
    benchmark: str
    rows: dict[str, Row]
    columns: str = "tasks"
    note: str = ""
    tasks: tuple[str, ...] = ()
    ticks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """What the names in the specs stand for, the seeds and an overriding recipe.

    layers: numbers of layers, for backbones of another depth (Fig. 2: 3 of 12 is 1 of 4).
    """

    name: str
    seeds: tuple[int, ...]
    backbones: dict[str, str] = field(default_factory=dict)
    benchmarks: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    layers: dict[int, int] = field(default_factory=dict)
    recipe: str | None = None
    note: str = ""


def named(word: str) -> tuple[str, ...]:
    """The specs that a word stands for: 2, table2, 4 (its two halves), 4a, fig2, or a file.

    Raises:
        ConfigError: it stands for none.
    """
    key = word.lower().removeprefix("table")
    if key in TABLES:
        return TABLES[key]
    for name in (word.lower(), f"table{key}"):
        if name in every():
            return (name,)
    if word.endswith((".yaml", ".yml")):
        return (word,)
    raise ConfigError(f"unknown table {word!r}; {nearest(word, {*TABLES, *every()})}")


def every() -> tuple[str, ...]:
    """The names of all of the paper's specs, in its order."""
    return tuple(name for names in TABLES.values() for name in names)


def spec(name: str) -> Spec:
    """A spec by name ("table2") or by its file, every key checked.

    Raises:
        ConfigError: names the file and the key.
    """
    if name.endswith((".yaml", ".yml")):
        return _spec(Path(name))
    return _shipped(name)


@cache
def _shipped(name: str) -> Spec:
    return _spec(FOLDER / f"{name}.yaml")


def _spec(path: Path) -> Spec:
    content = read_yaml(path)
    defaults = {"backbone": content.pop("backbone", None)}
    content |= {key: tuple(content.get(key, ())) for key in ("tasks", "ticks")}
    if "series" in content:
        series = content.pop("series")
        content["rows"] = _series_rows(series, str(path))
        content["note"] = content.get("note", "").replace("{order}", series["order"])
    allowed = {f.name for f in dataclasses.fields(Row)} - {"key"}
    rows = {}
    for key, values in content.pop("rows", {}).items():
        for name_ in values:
            if name_ not in allowed:
                raise ConfigError(
                    f"{path}: row {key}: unknown key {name_!r}; {nearest(name_, allowed)}"
                )
        rows[key] = Row(**({"key": key} | defaults | values))
        _check_printed(rows[key], str(content.get("benchmark")), f"{path}: row {key}")
    try:
        return Spec(name=path.stem, rows=rows, **content)
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from None


def _series_rows(series: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Fig. 2's rows: every module set with every number of layers; the set is the row's group."""
    series = dict(series)
    try:
        modules, layers = series.pop("modules"), series.pop("layers")
        order, options = series.pop("order"), series.pop("options")
    except KeyError as error:
        raise ConfigError(f"{where}: series: {error.args[0]} is missing") from None
    if order not in ORDERS:
        expected = " or ".join(ORDERS)
        raise ConfigError(f"{where}: series: order: found {order!r}, expected {expected}")
    return {
        f"{name.lower()}-{k}": series
        | {"label": f"{name} {k}/{max(layers)}", "group": name}
        | {"options": options | {"modules": parts, "layers": f"{order}:{k}"}}
        for name, parts in modules.items()
        for k in layers
    }


def _check_printed(row: Row, benchmark: str, where: str) -> None:
    """Check what a row says about its printed accuracies and number of parameters."""
    words = {"params": COUNTED, "setting": SETTINGS, "printed_rule": PRINTED_RULES}
    for name, valid in words.items():
        if getattr(row, name) not in valid:
            value, expected = getattr(row, name), " or ".join(valid)
            raise ConfigError(f"{where}: {name}: found {value!r}, expected {expected}")
    if not row.audit:
        return
    if len(row.audit) > 1 or not all(isinstance(mix, dict) for mix in row.audit.values()):
        raise ConfigError(f"{where}: audit: expected {{option: {{value: tasks}}}}, one option")
    ((option, mixture),) = row.audit.items()
    try:
        for value in mixture:
            methods.options(row.method, row.options | {option: value})
    except methods.MethodError as error:
        raise ConfigError(f"{where}: audit: {error}") from None
    counts, size = list(mixture.values()), len(tasks.select(benchmark, None))
    if not all(type(count) is int for count in counts) or sum(counts) != size:
        given = " + ".join(map(str, counts))
        raise ConfigError(f"{where}: audit: {option}: found {given} tasks, expected {size}")


def profile(name: str) -> Profile:
    """A profile by name.

    Raises:
        ConfigError: there is none of this name.
    """
    content = read_yaml(PROFILES)
    if name not in content:
        raise ConfigError(f"unknown profile {name!r}; {nearest(name, content)}")
    seeds = tuple(content[name]["seeds"])
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{PROFILES}: {name}: seeds: found {list(seeds)}, expected each once")
    return Profile(**{**content[name], "name": name, "seeds": seeds})


def profiles() -> list[str]:
    return list(read_yaml(PROFILES))
