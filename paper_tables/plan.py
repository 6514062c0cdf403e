"""From a request for a table to the runs that its cells need. No torch is needed.

TableRequest     which part of which table, by which protocol, with which changes
plan(request)    -> a Cell for every row, task and seed, each with its RunConfig
"""

import dataclasses
import hashlib
import itertools
import json
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from .. import methods
from ..benchmarks import recipes, tasks
from ..benchmarks.config import Recipe, RunConfig
from ..benchmarks.files import scalar
from ..benchmarks.tasks import Task
from ..methods.errors import ConfigError, InputError, nearest
from .specs import ORDERS, Profile, Row, Spec

Protocol = Literal["recipe", "val", "best_test", "printed"]
PROTOCOLS: tuple[Protocol, ...] = typing.get_args(Protocol)
# How one number is selected; select.py says what each means. A protocol gives every row a rule.
Rule = Literal["last", "val", "best_10", "best"]
SCORED_EVERY: dict[Rule, int] = {"last": 0, "val": 0, "best_10": 10, "best": 1}  # epochs


@dataclass(frozen=True)
class OptionChange:
    """A method option from the command line; several values make a row each.

    row: a row's key, else a label, else the method of several rows; None: the only row.
    """

    row: str | None
    option: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> "OptionChange":
        """`lora.rank=4` or `rank=2,4,8`; ';' separates values that contain commas.

        Raises:
            ConfigError: it has another form, or names a recipe key.
        """
        key, sign, value = text.partition("=")
        row, _, option = key.rpartition(".")
        parts = value.split(";" if ";" in value or _is_list(option) else ",")
        parts = [part.strip() for part in parts]
        if not (sign and option and all(parts)):
            expected = "expected ROW.OPTION=VALUE, as in lora.rank=4"
            raise ConfigError(f"--option: found {text!r}, {expected}")
        if option in {f.name for f in dataclasses.fields(Recipe)} and not _has_option(option):
            raise ConfigError(
                f"--option: {option!r} is a recipe key; change it with --set {option}={value}"
            )
        return cls(row or None, option, tuple(map(scalar, parts)))

    def chosen(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that the change is about; upper and lower case are the same."""
        if self.row is None:
            return list(rows)
        for word in ("key", "label", "method"):
            named = [row for row in rows if getattr(row, word).lower() == self.row.lower()]
            if named:
                return named
        return []


def _kinds(option: str) -> list[Any]:
    """The types that methods give an option of this name."""
    of_methods = [typing.get_type_hints(type(methods.options(name))) for name in methods.names()]
    return [hints[option] for hints in of_methods if option in hints]


def _has_option(option: str) -> bool:
    return bool(_kinds(option))


def _is_list(option: str) -> bool:
    return any(typing.get_origin(kind) is tuple for kind in _kinds(option))


@dataclass(frozen=True)
class TableRequest:
    """Which part of a table, by which protocol, with which changes.

    Attributes:
        rows, tasks, seeds: None stands for all of the table's, and for the profile's seeds.
        recipe: keys that win over the recipe files, such as {"epochs": 1}.
        options: method options that make rows of their own.
        curve: score the test set after every epoch, whatever the protocol needs; not with the rule
            val, which looks at it once.
        smoke: accept short lists; never a result.
    """

    spec: Spec
    profile: Profile
    rows: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    protocol: Protocol = "recipe"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[OptionChange, ...] = ()
    curve: bool = False
    smoke: bool = False

    @cached_property
    def name(self) -> str:
        """Names the table's files: the spec's name, then what differs from the whole table."""
        parts: list[str] = [self.protocol] * (self.protocol != "recipe")
        for what, chosen in (("rows", self.rows), ("tasks", self.tasks), ("seeds", self.seeds)):
            if chosen is not None:
                few = "+".join(map(str, chosen)) or "none"
                parts.append(few if len(few) <= 24 and what != "seeds" else f"{len(chosen)}-{what}")
        parts += [f"{key}-{value}" for key, value in self.recipe.items()]
        parts += [f"{c.option}-{'+'.join(map(str, c.values))}" for c in self.options]
        parts += ["smoke"] * self.smoke
        if not parts:
            return self.spec.name
        asked: list[Any] = [self.protocol, self.rows, self.tasks, self.seeds, self.smoke]
        asked += [str(dict(self.recipe)), str(self.options)]
        text = re.sub(r"[^A-Za-z0-9.+_-]", "_", f"{self.spec.name}-{'-'.join(parts)}")
        if parts == [self.protocol]:
            return text
        digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return f"{text[:60]}-{digest[:8]}"

    @property
    def remark(self) -> str:
        """What was changed on the command line, for the note about our numbers."""
        changed = [f"{key}={value}" for key, value in self.recipe.items()]
        changed += ["smoke"] * self.smoke
        return f"changed on the command line: {' '.join(changed)}" if changed else ""


@dataclass(frozen=True)
class Cell:
    """One run of one cell of a table; without a config, `reason` says why it cannot be run.

    rule: how its number is selected.
    eval_every: how often its run scores the test set (RunConfig).
    trials: rule `val` only: runs that decide about the config. They have the grid's settings,
    are trained without the validation images and scored on them; `select.decide` then gives the
    config.
    """

    spec: Spec
    row: Row
    task: Task
    seed: int
    config: RunConfig | None
    source: str = ""  # where the recipe's values come from
    reason: str = ""
    rule: Rule = "last"
    eval_every: int = 0
    trials: tuple[RunConfig, ...] = ()
    train_split: Literal["trainval", "train"] = "trainval"

    @property
    def like(self) -> RunConfig | None:
        """The cell's run; one of its trials while they have not decided."""
        return self.config or next(iter(self.trials), None)

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """Its trials and, once they have decided, its own run."""
        return (*self.trials, self.config) if self.config else self.trials

    def final(self, trial: RunConfig) -> RunConfig:
        """The run that the cell asks for if this trial wins."""
        return replace(
            trial,
            train_split=self.train_split,
            eval_split="test",
            eval_every=self.eval_every,
            seed=self.seed,
        )


def plan(request: TableRequest) -> list[Cell]:
    """The cells of a request, row by row, task by task, seed by seed.

    Raises:
        ConfigError, MethodError: an unknown row, task, recipe key or option; no row, task or seed.
    """
    spec, profile = request.spec, request.profile
    benchmark = profile.benchmarks.get(spec.benchmark, spec.benchmark)
    wanted = request.tasks
    if wanted is None and spec.tasks:
        wanted = tuple(profile.tasks.get(name, name) for name in spec.tasks)
    columns = tasks.select(benchmark, wanted)
    seeds = profile.seeds if request.seeds is None else dict.fromkeys(request.seeds)
    rows = chosen_rows(request)
    for what, chosen in (("row", rows), ("task", columns), ("seed", seeds)):
        if not chosen:
            raise ConfigError(f"--{what}s: no {what} of {spec.name} is asked for")
    cells = []
    for row in rows:
        for task in columns:
            first = _cell(request, row, task)
            for seed in seeds:
                config = replace(first.config, seed=seed) if first.config else None
                cells.append(replace(first, seed=seed, config=config))
    return cells


def chosen_rows(request: TableRequest) -> list[Row]:
    """The rows by key or label, then those that `options` make of them.

    A method without a row gets one, with our default recipe. The table's rows come first, in its
    order.

    Raises:
        ConfigError: a word names neither a row nor a method; an option belongs to none of the rows.
    """
    spec, wanted = request.spec, request.rows
    rows = list(spec.rows.values()) if wanted is None else _rows_named(spec, wanted)
    if not request.options:
        return rows
    changes: dict[str, list[OptionChange]] = {row.key: [] for row in rows}
    for change in request.options:
        named = change.chosen(rows)
        if change.row is None and len(rows) > 1:
            raise ConfigError(
                f"--option: {change.option} of which row? Say ROW.{change.option}=..., or --rows"
            )
        if not named:
            known = {word for row in rows for word in (row.key, row.method)}
            raise ConfigError(
                f"--option: no row {change.row!r} is asked for; {nearest(str(change.row), known)}"
            )
        for row in named:
            changes[row.key].append(change)
    return [variant for row in rows for variant in _variants(row, changes[row.key])]


def _rows_named(spec: Spec, wanted: Iterable[str]) -> list[Row]:
    by_label = {row.label.lower(): key for key, row in spec.rows.items()}
    rows: dict[str, Row] = {}
    for word in wanted:
        key = by_label.get(word.lower(), word)
        if key in spec.rows:
            rows[key] = spec.rows[key]
        elif word in methods.names():
            backbone = next(iter(spec.rows.values())).backbone
            rows[word] = Row(word, word, word, backbone, "ours")
        else:
            known = {*spec.rows, *methods.names()}
            hint = f"{nearest(word, known)}; a method of your own needs --plugin FILE.py"
            raise ConfigError(f"unknown row {word!r} of {spec.name}; {hint}")
    order = {key: position for position, key in enumerate(spec.rows)}
    return sorted(rows.values(), key=lambda row: order.get(row.key, len(order)))


def _variants(row: Row, changes: Iterable[OptionChange]) -> list[Row]:
    """A row for every combination of values that the changes give; itself without any."""
    axes: dict[str, tuple[Any, ...]] = {}
    for change in changes:
        if change.option in axes:
            example = f"{row.key}.{change.option}=VALUE,VALUE"
            raise ConfigError(f"--option: {change.option} of {row.key} twice; write {example}")
        axes[change.option] = change.values
    if not axes:
        return [row]
    variants: dict[str, Row] = {}
    for values in itertools.product(*axes.values()):
        chosen = row.options | dict(zip(axes, values, strict=True))
        try:
            options = methods.options(row.method, chosen)
        except InputError as error:
            raise ConfigError(f"--option: {error}") from None
        words = [(option, _shown(getattr(options, option))) for option in axes]
        key = f"{row.key}[{','.join(f'{option}={value}' for option, value in words)}]"
        label = f"{row.label}, {', '.join(f'{option} {value}' for option, value in words)}"
        variants[key] = replace(row, key=key, label=label, options=chosen)
    return list(variants.values())


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def rule_of(protocol: Protocol, row: Row) -> Rule:
    """How a row's numbers are selected; a printed rule that is unknown counts as the last epoch."""
    of_all: dict[Protocol, Rule] = {"recipe": "last", "val": "val", "best_test": "best"}
    if protocol != "printed":
        return of_all[protocol]
    return "last" if row.printed_rule == "unknown" else row.printed_rule


def _cell(request: TableRequest, row: Row, task: Task) -> Cell:
    """A cell of seed 0. Its trials have seed 0 too, whatever the table's seeds are."""
    spec, profile, rule = request.spec, request.profile, rule_of(request.protocol, row)
    every = 1 if request.curve and rule != "val" else SCORED_EVERY[rule]
    backbone = profile.backbones.get(row.backbone, row.backbone)
    if row.method not in methods.names():
        return Cell(spec, row, task, 0, None, reason=f"method {row.method!r} is not built")
    recipe = profile.recipe or row.recipe
    changes = dict(request.recipe)

    def config(settings: recipes.Resolved) -> RunConfig:
        return RunConfig(
            benchmark=task.benchmark,
            task=task.name,
            backbone=backbone,
            method=row.method,
            options=_options(row, profile, settings.options),
            recipe=settings.recipe,
            train_split=settings.train_split,
            eval_every=every,
            smoke=request.smoke,
        )

    settings = recipes.resolve(recipe, row.method, backbone, task, changes)
    source = f"recipe {recipe}: {settings.source}"
    cell = Cell(spec, row, task, 0, config(settings), source, rule=rule, eval_every=every)
    if rule != "val":
        return cell
    points = recipes.trials(recipe, row.method, backbone, task, changes)
    on_val: dict[str, Any] = {"train_split": "train", "eval_split": "val", "eval_every": 0}
    trials = [replace(config(point), **on_val) for point in points]
    return replace(
        cell,
        config=None,
        reason="its trials on the validation images are not done",
        trials=tuple({trial.run_id: trial for trial in trials}.values()),
        train_split=settings.train_split,
    )


def _options(row: Row, profile: Profile, from_recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options that differ from its defaults: those of the recipe, then the row's."""
    chosen = dict(row.options)
    order, _, k = str(chosen.get("layers", "")).partition(":")
    if order in ORDERS and k.isdigit():
        chosen["layers"] = f"{order}:{profile.layers.get(int(k), int(k))}"
    options = methods.options(row.method, {**from_recipe, **chosen})
    defaults = methods.options(row.method)
    changed = {
        key: value
        for key, value in dataclasses.asdict(options).items()
        if value != getattr(defaults, key)
    }
    return {k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}
