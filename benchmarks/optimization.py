"""What happens between gradient and weight: the learning rate of a step, optimisers, weight decay.

Each published loop has its own habits; config.Recipe's keys name them. tests/benchmarks/replays
drives the loops' own schedulers and optimisers in the published order and compares.
"""

import math
from typing import Any

import torch
from torch import nn

from .config import Recipe


def learning_rate(recipe: Recipe, epoch: int, done: float = 0.0) -> float:
    """The learning rate of a step: `epoch` counts from 0, `done` is the share of it that is done.

    "cosine" is timm's CosineLRScheduler with one cycle, "restarts" torch's
    CosineAnnealingWarmRestarts.
    """
    t: float = max(0, epoch - 1) if recipe.schedule_lag else epoch
    if recipe.schedule_unit == "step":
        t += done
    if recipe.schedule == "restarts":
        period = recipe.restart_epochs
        while t >= period:
            t, period = t - period, period * recipe.restart_factor
        return _cosine(recipe, t / period)
    if t < recipe.warmup_epochs:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * t / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return recipe.lr
    if t >= recipe.epochs:
        return recipe.min_lr
    skipped = recipe.warmup_epochs if recipe.warmup_prefix else 0
    return _cosine(recipe, (t - skipped) / (recipe.epochs - skipped))


def _cosine(recipe: Recipe, part: float) -> float:
    return recipe.min_lr + 0.5 * (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * part))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or SGD over what requires a gradient, in a decayed and a spared group."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    spared = spared_names(model, recipe)
    groups = [
        {
            "params": [p for n, p in named if n not in spared],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for n, p in named if n in spared], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=True)
    kind = TransformersAdamW if recipe.adamw == "transformers" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, eps=recipe.eps, fused=True)


def spared_names(model: nn.Module, recipe: Recipe) -> set[str]:
    """The trained tensors that the recipe spares weight decay, by name."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if recipe.no_decay == "vectors":
        return {name for name, parameter in trained.items() if parameter.ndim <= 1}
    if recipe.no_decay == "classifier_bias":
        bias = model.get_classifier().bias
        return {name for name, parameter in trained.items() if parameter is bias}
    words = {"none": (), "bias": ("bias",), "bias_norm": ("bias", "norm")}[recipe.no_decay]
    return {name for name in trained if any(word in name for word in words)}


class TransformersAdamW(torch.optim.AdamW):
    """AdamW as Hugging Face's transformers had it until 2022 and VPT's code has it.

    Its epsilon joins the root of the *uncorrected* second moment, which makes it larger by
    1 / sqrt(1 - beta2^t) than torch's; and the decay follows the step:

        w <- w - lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)
        w <- w - lr weight_decay w

    The first line is torch's fused step with eps / sqrt(1 - beta2^t).
    """

    def __init__(self, params: Any, **more: Any):
        super().__init__(params, **more)
        self._kept: list[tuple[float, float]] = []
        self.register_step_pre_hook(self._before)
        self.register_step_post_hook(self._after)

    def _before(self, *_: Any) -> None:
        self._kept = [(group["eps"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            group["eps"] /= math.sqrt(1 - group["betas"][1] ** group["steps"])
            group["weight_decay"] = 0.0

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        for group, (eps, decay) in zip(self.param_groups, self._kept, strict=True):
            group["eps"], group["weight_decay"] = eps, decay
            moved = [p for p in group["params"] if p.grad is not None]
            if decay and moved:
                torch._foreach_mul_(moved, 1 - group["lr"] * decay)
