"""Recipes as data: recipes/<name>.yaml, one file a source, every published per-task value in it.

    source: whose settings these are, and how they are known
    extends: another recipe to start from (optional)
    defaults: {lr: ..., epochs: ..., options: {rank: ...}}     config.Recipe's keys, method options
    backbones: {swin: {...}}                                   where the tag begins with this
    benchmarks: {fgvc: {...}}
    methods: {linear: {...}}
    tasks: {vtab-1k: {cifar: {...}}}

    grid: {lr: [x0.1, x1, x10], options.scale: [0.1, 1, 10]}   in any section: what `val` searches

Later sections win. Any section may have a `source`, which is added to the file's, and
`train_split: train`, where the source trained without the validation images. `hflip: where_safe`
follows the task table.

A grid is the product of its keys. A value like x0.1 multiplies the recipe's value. Keys that belong
together are written as one, with lists of values:
`"optimizer, weight_decay": [[adamw, 0.01], [sgd, 0]]`. A recipe without a grid takes `ours`'s.
"""

import itertools
import typing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..methods.errors import ConfigError, nearest
from .config import Recipe, recipe_from, typed
from .files import read_yaml, scalar
from .tasks import Task, benchmarks, get

FOLDER = Path(__file__).with_name("recipes")
SECTIONS = ("source", "extends", "defaults", "backbones", "benchmarks", "methods", "tasks")
TrainSplit = Literal["trainval", "train"]
TRAIN_SPLITS: tuple[TrainSplit, ...] = typing.get_args(TrainSplit)


@dataclass(frozen=True)
class Resolved:
    """A recipe for one method, backbone and task, and what comes with it.

    options: the method's; source: where the values come from; train_split: what to train on.
    """

    recipe: Recipe
    options: dict[str, Any]
    source: str
    train_split: TrainSplit = "trainval"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def resolve(
    name: str, method: str, backbone: str, task: Task, overrides: dict[str, Any] | None = None
) -> Resolved:
    """The recipe `name` for a method, a backbone tag and a task; `overrides` win over the file.

    An override of `epochs` alone shortens the whole schedule: warm-up in proportion, no cooldown.

    Raises:
        ConfigError: an unknown recipe, section, task or key, or a value of the wrong type.
    """
    settings, source, _ = _settings(name, method, backbone, task, overrides or {})
    return _resolved(settings, source, name, method, task)


def trials(
    name: str, method: str, backbone: str, task: Task, overrides: dict[str, Any] | None = None
) -> list[Resolved]:
    """The recipe at every point of its grid, in order; a key that is overridden is not searched.

    Raises:
        ConfigError: as `resolve`, or a grid's values are no list.
    """
    overrides = overrides or {}
    settings, source, grid = _settings(name, method, backbone, task, overrides)
    where = f"{FOLDER / name}.yaml ({method}, {task.name}): grid"
    axes = []
    for keys, values in grid.items():
        names = [key.strip() for key in keys.split(",")]
        axis = values if isinstance(values, list) else []
        axis = [value if len(names) > 1 else [value] for value in axis]
        if not axis or any(not isinstance(v, list) or len(v) != len(names) for v in axis):
            raise ConfigError(f"{where}: {keys}: found {values!r}, expected a list of values")
        if not overrides.keys() & set(names):
            axes.append([dict(zip(names, value, strict=True)) for value in axis])
    points = []
    for parts in itertools.product(*axes):
        changed = dict(settings)
        for key, value in (item for part in parts for item in part.items()):
            head, _, option = key.partition(".")
            if option:
                changed[head] = changed.get(head, {}) | {option: value}
            else:
                changed[key] = _scaled(value, changed.get(key), f"{where}: {key}")
        points.append(_resolved(changed, source, name, method, task))
    return points


def _scaled(value: Any, base: Any, where: str) -> Any:
    """A value like x0.1 as that multiple of the recipe's value `base`; any other as it is."""
    if not (isinstance(value, str) and value.startswith("x")):
        return value
    try:
        return float(f"{float(value[1:]) * float(base):.6g}")
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: found {value!r} of {base!r}, expected a factor") from None


def _resolved(
    settings: dict[str, Any], source: str, name: str, method: str, task: Task
) -> Resolved:
    settings = dict(settings)
    options = settings.pop("options", {})
    where = f"{FOLDER / name}.yaml ({method}, {task.name})"
    split = settings.pop("train_split", "trainval")
    if split not in TRAIN_SPLITS:
        expected = " or ".join(TRAIN_SPLITS)
        raise ConfigError(f"{where}: train_split: found {split!r}, expected {expected}")
    if settings.get("hflip") == "where_safe":
        settings["hflip"] = task.hflip_safe
    return Resolved(recipe_from(settings, where), options, source, split)


def overrides(words: list[str]) -> dict[str, Any]:
    """Overrides from the command line: ["lr=1e-3", "hflip=false"] -> {"lr": 0.001, "hflip": False}.

    Raises:
        ConfigError: a word without "=", an unknown key, or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not text:
            raise ConfigError(f"--set: found {word!r}, expected KEY=VALUE, as in lr=1e-3")
        value = scalar(text)
        if (key, value) != ("hflip", "where_safe"):
            value = typed({key: value}, "--set")[key]
        values[key] = value
    return values


def _settings(
    name: str, method: str, backbone: str, task: Task, overrides: dict[str, Any]
) -> tuple[dict[str, Any], str, dict[str, list]]:
    """Settings from all sections that apply, overridden by `overrides`; the source; the grid."""
    settings, source = _merged(name, method, backbone, task)
    grid = settings.pop("grid", None) or _merged("ours", method, backbone, task)[0]["grid"]
    if "epochs" in overrides:
        warmup = settings.get("warmup_epochs", Recipe.warmup_epochs)
        share = float(overrides["epochs"]) / settings.get("epochs", Recipe.epochs)
        overrides = {"warmup_epochs": int(warmup * share), "cooldown_epochs": 0} | overrides
    return settings | overrides, source, grid


def _merged(name: str, method: str, backbone: str, task: Task) -> tuple[dict[str, Any], str]:
    file = recipe_file(name)
    settings: dict[str, Any] = {}
    source = file.get("source", "")
    if "extends" in file:
        settings, inherited = _merged(file["extends"], method, backbone, task)
        source = source or inherited
    layers = [file.get("defaults")]
    layers += [v for k, v in file.get("backbones", {}).items() if backbone.startswith(k)]
    layers += [file.get("benchmarks", {}).get(task.benchmark)]
    layers += [file.get("methods", {}).get(method)]
    layers += [file.get("tasks", {}).get(task.benchmark, {}).get(task.name)]
    for layer in layers:
        layer = dict(layer or {})
        if "source" in layer:
            source = "; ".join([*filter(None, [source]), layer.pop("source")])
        options = settings.get("options", {}) | layer.get("options", {})
        settings = settings | layer | ({"options": options} if options else {})
    return settings, source


@cache
def recipe_file(name: str) -> dict[str, Any]:
    """A recipe file as written, its sections and tasks checked."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"unknown recipe {name!r}; {nearest(name, names())}")
    file = read_yaml(path)
    for section in file:
        if section not in SECTIONS:
            raise ConfigError(f"{path}: unknown section {section!r}; {nearest(section, SECTIONS)}")
    for benchmark in file.get("benchmarks", {}):
        if benchmark not in benchmarks():
            hint = nearest(benchmark, benchmarks())
            raise ConfigError(f"{path}: unknown benchmark {benchmark!r}; {hint}")
    for benchmark, tasks in file.get("tasks", {}).items():
        for task in tasks:
            if get(benchmark, task).name != task:
                raise ConfigError(f"{path}: task {task!r}: its name is {get(benchmark, task).name}")
    return file
