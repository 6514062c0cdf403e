"""What a run is: a frozen config, and the id that is a hash of it. Nothing here needs torch."""

import hashlib
import json
import math
import typing
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from typing import Any, Literal

from ..methods.checks import checked
from ..methods.errors import ConfigError, nearest

# The defaults below are part of the meaning of every run id: a field that has its default does not
# enter the hash, so that a new field leaves old ids alone. Never change a default; add a field.


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The neutral defaults are what a recipe file starts from."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3  # the nominal (peak) learning rate, as used, not per 256 images
    weight_decay: float = 1e-4
    momentum: float = 0.9  # sgd only
    # which tensors are spared weight decay: none; vectors (1-D, as timm); those whose name contains
    # "bias" or "norm" (RLRR's code) or "bias" (VPT's AdamW); the classifier's bias (VPT's SGD)
    no_decay: Literal["none", "vectors", "bias_norm", "bias", "classifier_bias"] = "none"
    clip_grad: float = 0.0  # 0: off, else the largest global gradient norm
    epochs: int = 100  # length of the schedule; cooldown comes on top
    batch_size: int = 64
    drop_last: bool = False
    schedule: Literal["cosine", "restarts", "constant"] = "cosine"
    schedule_unit: Literal["epoch", "step"] = "epoch"  # how often the learning rate moves
    warmup_epochs: int = 10
    warmup_lr: float = 1e-6
    min_lr: float = 0.0
    warmup_prefix: bool = False  # True: the cosine starts after the warm-up, not under it
    cooldown_epochs: int = 0  # more epochs at min_lr
    restart_epochs: int = 10  # restarts only: first period; the next are restart_factor longer
    restart_factor: int = 1
    # the authors' loops set epoch e to the rate of epoch e - 1 (scheduler stepped after the epoch)
    schedule_lag: bool = False
    drop_path: float = 0.0  # rate in the last block, linear from 0 in the first
    drop_path_kind: Literal["path", "element"] = "path"  # element: RLRR's code on ViT
    dropout: float = 0.0  # the backbone's own dropout (VPT's full fine-tuning has 0.1)
    label_smoothing: float = 0.0
    hflip: bool = False
    normalisation: Literal["backbone", "half", "imagenet", "none"] = "backbone"
    head_init: Literal["zero", "trunc_normal", "linear", "vpt"] = "trunc_normal"
    amp: bool = True  # bf16 autocast where the device has it, else float32
    # how images become the model's input: resizes as in data.View, crops as in pixels.Pixels
    resize: Literal["squash", "squash256", "short256", "short248", "own"] = "squash"
    crop: Literal["none", "random", "rrc"] = "none"  # in training; at test the centre
    resize_test: Literal["same", "squash", "squash256", "short256", "short248"] = "same"
    interpolation: Literal["backbone", "bicubic", "bilinear", "random"] = "backbone"
    mixup: float = 0.0  # alpha; with cutmix each is drawn for half of the batches
    cutmix: float = 0.0  # alpha
    erasing: float = 0.0  # probability that a rectangle of an image becomes noise
    ema: float = 0.0  # decay of the averaged weights, which are then what is scored; 0: off
    # transformers: as Hugging Face's was until 2022 and VPT's code is; see optimization.py
    adamw: Literal["torch", "transformers"] = "torch"
    eps: float = 1e-8  # adamw only
    mix_batch: int = 0  # images that share a draw of mixup or cutmix; 0: the batch


@dataclass(frozen=True)
class RunConfig:
    """One run: this method on this backbone and task, trained by this recipe from this seed."""

    benchmark: str
    task: str
    backbone: str  # full timm tag
    method: str
    options: dict[str, Any] = field(default_factory=dict)  # those that differ from the default
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    train_split: Literal["trainval", "train"] = "trainval"
    eval_split: Literal["test", "val"] = "test"
    eval_every: int = 0  # epochs; 0: once, after the last one
    smoke: bool = False  # short lists or random weights were accepted: never a result

    @cached_property
    def run_id(self) -> str:
        """12 hex digits of the SHA-256 of the canonical JSON of what differs from the defaults."""
        text = json.dumps(_changed(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """For people: method, task, seed."""
        return self.name_in(self.method)

    def name_in(self, row: str) -> str:
        """For people: the row it belongs to, task, seed; for a validation run what it tries too."""
        text = f"{row} {self.task} seed {self.seed}"
        if self.eval_split == "test":
            return text
        options = "".join(f" {key} {value}" for key, value in self.options.items())
        recipe = self.recipe
        return f"{text} on val: lr {recipe.lr:g} wd {recipe.weight_decay:g}{options}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "RunConfig":
        """The inverse of `to_dict`; missing fields get their defaults, unknown ones are refused."""
        recipe = recipe_from(data.get("recipe", {}), "recipe")
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise ConfigError(f"run config: unknown key {sorted(unknown)[0]!r}")
        return cls(**{**data, "recipe": recipe})


def recipe_from(values: dict[str, Any], where: str) -> Recipe:
    """A Recipe from plain values, every key and type checked; `where` begins the error message."""
    recipe = Recipe(**typed(values, where))
    if recipe.resize == "own" and (recipe.crop != "rrc" or recipe.resize_test == "same"):
        raise ConfigError(f"{where}: resize own needs crop rrc and a resize_test")
    if recipe.resize != "squash" and recipe.crop == "none":
        raise ConfigError(f"{where}: resize {recipe.resize} needs crop random or rrc")
    if recipe.ema >= 1 or recipe.erasing > 1:
        raise ConfigError(f"{where}: ema and erasing: expected 0 to 1")
    return recipe


def typed(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Some of a recipe's keys, each with its value checked and converted to the field's type."""
    kinds = _kinds()
    checked_values = {}
    for key, value in values.items():
        if key not in kinds:
            raise ConfigError(f"{where}: unknown recipe key {key!r}; {nearest(key, kinds)}")
        number = checked(f"{where}: {key}", value, kinds[key])
        least = 1 if key in ("batch_size", "restart_epochs", "restart_factor") else 0
        if isinstance(number, int | float) and not least <= number < math.inf:
            raise ConfigError(f"{where}: {key}: found {value!r}, expected {least} or more")
        checked_values[key] = number
    return checked_values


@cache
def _kinds() -> dict[str, Any]:
    return typing.get_type_hints(Recipe)  # slow, and asked for every run that is planned


def _changed(config: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, nested recipe included."""
    out = {}
    for name, default in _defaults(config.__class__):
        value = getattr(config, name)
        if isinstance(value, Recipe):
            value = _changed_of(value)
        if value != ({} if isinstance(value, dict) else default):
            out[name] = value
    return out


@cache
def _changed_of(recipe: Recipe) -> dict[str, Any]:
    return _changed(recipe)  # thousands of runs share a few recipes


@cache
def _defaults(cls: type) -> list[tuple[str, Any]]:
    return [(f.name, f.default) for f in fields(cls)]
