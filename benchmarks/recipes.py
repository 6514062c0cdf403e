"""Recipes as data: recipes/<name>.yaml, one file a source, every published per-task value in it.

    source: whose settings these are, and how they are known
    extends: another recipe to start from (optional)
    defaults: {lr: ..., epochs: ..., options: {rank: ...}}     config.Recipe's keys, method options
    backbones: {swin: {...}}                                   where the tag begins with this
    benchmarks: {fgvc: {...}}
    methods: {linear: {...}}
    tasks: {vtab-1k: {cifar: {...}}}

Later sections win. Any of them may have its own `source`, which is added to the file's, and
`train_split: train`, where the source left the validation images out. `hflip: where_safe` follows
the task table.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from methods.registry import nearest

from .config import ConfigError, Recipe, recipe_from, typed
from .tasks import Task, benchmarks, get

FOLDER = Path(__file__).with_name("recipes")
SECTIONS = ("source", "extends", "defaults", "backbones", "benchmarks", "methods", "tasks")
TRAIN_SPLITS = ("trainval", "train")


@dataclass(frozen=True)
class Resolved:
    """A recipe for one method, backbone and task, and what comes with it.

    options: the method's; source: where the values come from; train_split: what to train on.
    """

    recipe: Recipe
    options: dict[str, Any]
    source: str
    train_split: str = "trainval"


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
    settings, source = _settings(name, method, backbone, task)
    overrides = dict(overrides or {})
    if "epochs" in overrides:
        warmup = settings.get("warmup_epochs", Recipe.warmup_epochs)
        share = float(overrides["epochs"]) / settings.get("epochs", Recipe.epochs)
        overrides = {"warmup_epochs": int(warmup * share), "cooldown_epochs": 0} | overrides
    settings |= overrides
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
    found: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not text:
            raise ConfigError(f"--set: found {word!r}, expected KEY=VALUE, as in lr=1e-3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if (key, value) != ("hflip", "where_safe"):
            value = typed({key: value}, "--set")[key]
        found[key] = value
    return found


def _settings(name: str, method: str, backbone: str, task: Task) -> tuple[dict[str, Any], str]:
    file = read(name)
    settings, source = {}, file.get("source", "")
    if "extends" in file:
        settings, inherited = _settings(file["extends"], method, backbone, task)
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
def read(name: str) -> dict[str, Any]:
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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; a ConfigError names the line where it is not YAML."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {type(content).__name__}, expected a mapping")
    return content
