"""Specs: the rows and columns of the paper's tables as YAML, and the runs that each cell needs.

A spec says which method, options, backbone and recipe a row stands for; a profile says what the
names mean (the paper's, or the demo's). `plan` turns both into run configs. No torch is needed.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import methods
from benchmarks import recipes, tasks
from benchmarks.config import ConfigError, RunConfig
from benchmarks.recipes import read_yaml
from benchmarks.tasks import Task
from methods.registry import nearest

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
PROTOCOLS = ("recipe", "val", "best_test")
ORDERS = ("first", "last")  # which layers Fig. 2 adapts
COUNTED = ("trainable", "method")  # what the printed Params. column counts: with the head, without
SETTINGS = ("documented", "solved")  # how the options behind that column are known


@dataclass(frozen=True)
class Row:
    """A row of a table: `key` on the command line and in files, `label` as printed.

    params, setting, audit and remark are about the printed number of parameters (see table2.yaml);
    audit {option: {value: tasks}} says what it was computed with where `options` do not fit it.
    """

    key: str
    label: str
    method: str
    backbone: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    params: str = "trainable"
    group: str = ""
    setting: str = "documented"
    audit: dict[str, dict[Any, int]] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Spec:
    """One table; `columns` is "tasks" or "groups" (only their means are printed).

    tasks: the benchmark's tasks that it is about; none: all of them. ticks: options of the rows,
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


@dataclass(frozen=True)
class Cell:
    """One run of one cell of a table; without a config, `reason` says why it cannot be run.

    trials: protocol `val` only, the runs that decide about the config: the grid's settings, trained
    without the validation images and scored on them. `select.decide` gives the config then.
    """

    spec: Spec
    row: Row
    task: Task
    seed: int
    config: RunConfig | None
    source: str = ""  # where the recipe's values come from
    reason: str = ""
    trials: tuple[RunConfig, ...] = ()
    train_split: str = "trainval"

    @property
    def like(self) -> RunConfig | None:
        """The cell's run or, while its trials decide about it, one of them."""
        return self.config or next(iter(self.trials), None)

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """Its trials, and its own run once it is known which that is."""
        return (*self.trials, self.config) if self.config else self.trials

    def final(self, trial: RunConfig) -> RunConfig:
        """The run that the cell asks for if this trial is the winner."""
        return replace(trial, train_split=self.train_split, eval_split="test", seed=self.seed)


@cache
def load(name: str) -> Spec:
    """A spec by name ("table2"), every key checked.

    Raises:
        ConfigError: names the file and the key.
    """
    path = FOLDER / f"{name}.yaml"
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
        _check_counting(rows[key], content.get("benchmark"), f"{path}: row {key}")
    try:
        return Spec(name=name, rows=rows, **content)
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


def _check_counting(row: Row, benchmark: str, where: str) -> None:
    """Check what a row says about its printed number of parameters."""
    for name, valid in (("params", COUNTED), ("setting", SETTINGS)):
        if getattr(row, name) not in valid:
            found, expected = getattr(row, name), " or ".join(valid)
            raise ConfigError(f"{where}: {name}: found {found!r}, expected {expected}")
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
    found, expected = list(mixture.values()), len(tasks.select(benchmark, None))
    if not all(type(count) is int for count in found) or sum(found) != expected:
        found = " + ".join(map(str, found))
        raise ConfigError(f"{where}: audit: {option}: found {found} tasks, expected {expected}")


def profile(name: str) -> Profile:
    """A profile by name.

    Raises:
        ConfigError: there is none of this name.
    """
    content = read_yaml(PROFILES)
    if name not in content:
        raise ConfigError(f"unknown profile {name!r}; {nearest(name, content)}")
    return Profile(**{**content[name], "name": name, "seeds": tuple(content[name]["seeds"])})


def profiles() -> list[str]:
    return list(read_yaml(PROFILES))


def chosen_rows(spec: Spec, wanted: Iterable[str] | None) -> list[Row]:
    """The rows by key or label; a method that is no row gets one, with our default recipe.

    The table's rows come in its order, the others after them.

    Raises:
        ConfigError: a word that is neither a row nor a method.
    """
    if wanted is None:
        return list(spec.rows.values())
    by_label = {row.label.lower(): key for key, row in spec.rows.items()}
    rows = []
    for word in wanted:
        key = by_label.get(word.lower(), word)
        if key in spec.rows:
            rows.append(spec.rows[key])
        elif word in methods.names():
            backbone = next(iter(spec.rows.values())).backbone
            rows.append(Row(word, word, word, backbone, "ours"))
        else:
            known = {*spec.rows, *methods.names()}
            raise ConfigError(f"unknown row {word!r} of {spec.name}; {nearest(word, known)}")
    order = {key: place for place, key in enumerate(spec.rows)}
    return sorted(rows, key=lambda row: order.get(row.key, len(order)))


def plan(
    spec: Spec,
    profile: Profile,
    rows: Iterable[str] | None = None,
    wanted_tasks: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    protocol: str = "recipe",
    overrides: dict[str, Any] | None = None,
    smoke: bool = False,
) -> list[Cell]:
    """The runs of a table, row by row, task by task, seed by seed.

    Args:
        overrides: recipe keys that win over the recipe files, such as {"epochs": 1}.

    Raises:
        ConfigError, MethodError: an unknown row, task, recipe key or option.
    """
    benchmark = profile.benchmarks.get(spec.benchmark, spec.benchmark)
    if wanted_tasks is None and spec.tasks:
        wanted_tasks = [profile.tasks.get(name, name) for name in spec.tasks]
    columns = tasks.select(benchmark, wanted_tasks)
    cells = []
    for row in chosen_rows(spec, rows):
        backbone = profile.backbones.get(row.backbone, row.backbone)
        for task in columns:
            first = _cell(spec, row, profile, backbone, task, protocol, overrides or {}, smoke)
            for seed in profile.seeds if seeds is None else seeds:
                config = replace(first.config, seed=seed) if first.config else None
                cells.append(replace(first, seed=seed, config=config))
    return cells


def _cell(
    spec: Spec,
    row: Row,
    profile: Profile,
    backbone: str,
    task: Task,
    protocol: str,
    overrides: dict[str, Any],
    smoke: bool,
) -> Cell:
    """A cell of seed 0; a trial is of seed 0 too, whatever the table's seeds are."""
    if row.method not in methods.names():
        return Cell(spec, row, task, 0, None, reason=f"method {row.method!r} is not built")
    recipe = profile.recipe or row.recipe

    def config(found: recipes.Resolved) -> RunConfig:
        return _config(row, profile, backbone, task, found, protocol, smoke)

    found = recipes.resolve(recipe, row.method, backbone, task, overrides)
    source = f"recipe {recipe}: {found.source}"
    if protocol != "val":
        return Cell(spec, row, task, 0, config(found), source)
    points = recipes.trials(recipe, row.method, backbone, task, overrides)
    trials = [replace(config(point), train_split="train", eval_split="val") for point in points]
    trials = tuple({trial.run_id: trial for trial in trials}.values())
    reason = "its trials on the validation images are not done"
    return Cell(spec, row, task, 0, None, source, reason, trials, found.train_split)


def _config(
    row: Row,
    profile: Profile,
    backbone: str,
    task: Task,
    found: recipes.Resolved,
    protocol: str,
    smoke: bool,
) -> RunConfig:
    own = dict(row.options)
    order, _, k = str(own.get("layers", "")).partition(":")
    if order in ORDERS and k.isdigit():
        own["layers"] = f"{order}:{profile.layers.get(int(k), int(k))}"
    options = methods.options(row.method, found.options | own)
    defaults = methods.options(row.method)
    changed = {
        key: value
        for key, value in dataclasses.asdict(options).items()
        if value != getattr(defaults, key)
    }
    changed = {k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}
    return RunConfig(
        benchmark=task.benchmark,
        task=task.name,
        backbone=backbone,
        method=row.method,
        options=changed,
        recipe=found.recipe,
        train_split=found.train_split,
        eval_every=1 if protocol == "best_test" else 0,
        smoke=smoke,
    )
