"""Recipes as data: recipes/<name>.yaml, one file a source, every published per-task value in it.

    source: whose settings these are, and how they are known
    extends: another recipe to start from (optional)
    defaults: {lr: ..., epochs: ..., options: {rank: ...}}     config.Recipe's keys, method options
    backbones: {swin: {...}}                                   where the tag begins with this
    methods: {linear: {...}}
    tasks: {vtab-1k: {cifar: {...}}}

Later sections win. `hflip: where_safe` follows the task table.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from methods.registry import nearest

from .config import ConfigError, Recipe, recipe_from
from .tasks import Task, get

FOLDER = Path(__file__).with_name("recipes")
SECTIONS = ("source", "extends", "defaults", "backbones", "methods", "tasks")


@dataclass(frozen=True)
class Resolved:
    """A recipe for one method, backbone and task, and the method options that come with it."""

    recipe: Recipe
    options: dict[str, Any]
    source: str


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
    if settings.get("hflip") == "where_safe":
        settings["hflip"] = task.hflip_safe
    recipe = recipe_from(settings, f"{FOLDER / name}.yaml ({method}, {task.name})")
    return Resolved(recipe, options, source)


def _settings(name: str, method: str, backbone: str, task: Task) -> tuple[dict[str, Any], str]:
    file = read(name)
    settings, source = {}, file.get("source", "")
    if "extends" in file:
        settings, inherited = _settings(file["extends"], method, backbone, task)
        source = source or inherited
    layers = [file.get("defaults")]
    layers += [v for k, v in file.get("backbones", {}).items() if backbone.startswith(k)]
    layers += [file.get("methods", {}).get(method)]
    layers += [file.get("tasks", {}).get(task.benchmark, {}).get(task.name)]
    for layer in layers:
        layer = layer or {}
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
    for benchmark, tasks in file.get("tasks", {}).items():
        for task in tasks:
            get(benchmark, task)
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
