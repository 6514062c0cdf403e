"""What happens between gradient and weight: the learning rate of a step, optimisers, weight decay.

Each published loop has its own habits; config.Recipe's keys name them. The replays among the tests
drive the loops' own schedulers and optimisers in the published order and compare.
"""

import math
from collections.abc import Callable
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
    if recipe.adamw == "transformers":
        return TransformersAdamW(groups, lr=recipe.lr, eps=recipe.eps)
    return torch.optim.AdamW(groups, lr=recipe.lr, eps=recipe.eps, fused=True)


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


class TransformersAdamW(torch.optim.Optimizer):
    """AdamW as Hugging Face's transformers had it until 2022 and VPT's code has it.

    Its epsilon joins the root of the *uncorrected* second moment, which makes it larger by
    1 / sqrt(1 - beta2^t) than torch's; and the decay follows the step:

        w <- w - lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)
        w <- w - lr weight_decay w
    """

    def __init__(self, params: Any, lr: float, eps: float, weight_decay: float = 0.0):
        defaults = {"lr": lr, "betas": (0.9, 0.999), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Take a step with every tensor that has a gradient."""
        for group in self.param_groups:
            tensors = [p for p in group["params"] if p.grad is not None]
            if not tensors:
                continue
            gradients = [p.grad for p in tensors]
            for p in tensors:
                if not self.state[p]:
                    self.state[p] = {
                        "step": 0,
                        "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p),
                    }
                self.state[p]["step"] += 1
            beta1, beta2 = group["betas"]
            first = [self.state[p]["exp_avg"] for p in tensors]
            second = [self.state[p]["exp_avg_sq"] for p in tensors]
            torch._foreach_lerp_(first, gradients, 1 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
            roots = torch._foreach_sqrt(second)
            torch._foreach_add_(roots, group["eps"])
            counts = [self.state[p]["step"] for p in tensors]
            lengths = [math.sqrt(1 - beta2**t) / (1 - beta1**t) for t in counts]
            torch._foreach_addcdiv_(tensors, first, roots, [-group["lr"] * x for x in lengths])
            if group["weight_decay"]:
                torch._foreach_mul_(tensors, 1 - group["lr"] * group["weight_decay"])
