"""The life of a method on a model: apply, count, delta, load_delta, merge."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from . import registry
from .anatomy import Adapted, Anatomy
from .errors import MethodError


class CannotMerge(MethodError):
    """The method is not linear (or not on this backbone): no plain timm model equals it."""


@dataclass(frozen=True)
class Attached:
    """What `apply` notes on the model as `model.peft`."""

    method: str
    options: dict[str, Any]
    head: str  # path of the classifier


def apply(name: str, model: nn.Module, **options: Any) -> nn.Module:
    """Freeze a timm model, attach a method and return the model ready to train, head included.

    Works in place. Fresh parameters are drawn from torch's global generator: seed it before.

    Raises:
        MethodError: unknown method or option, a model that is not a timm ViT or Swin, or one that
            has a method already.
    """
    chosen = registry.options(name, options)
    if hasattr(model, "peft"):
        raise MethodError(f"the model has method {model.peft.method!r} already; use a new one")
    anatomy = Anatomy(model)
    model.requires_grad_(False)
    registry.module(name).attach(anatomy, chosen)
    anatomy.head.module.requires_grad_(True)
    model.peft = Attached(name, asdict(chosen), anatomy.head.path)
    return model


def parameters(model: nn.Module) -> dict[str, int]:
    """Trainable parameters: those of the method (`peft`), of the `head`, and their `total`."""
    inside = model.peft.head + "."
    counts = {True: 0, False: 0}
    for name, parameter in model.named_parameters():  # a shared tensor is counted once
        if parameter.requires_grad:
            counts[name.startswith(inside)] += parameter.numel()
    return {"peft": counts[False], "head": counts[True], "total": sum(counts.values())}


def delta(model: nn.Module) -> dict[str, Tensor]:
    """What was trained, head included: trainable parameters and the buffers that go with them.

    A buffer (a BatchNorm's running statistics) belongs to it when its module has trainable
    parameters. Tensors are detached, not copied.
    """
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    for path, module in model.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            for name, buffer in module.named_buffers(prefix=path, recurse=False):
                if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                    trained[name] = buffer.detach()
    return trained


def load_delta(model: nn.Module, trained: Mapping[str, Tensor]) -> nn.Module:
    """Put a delta back onto a model with the same method and options; returns the model.

    Raises:
        MethodError: a tensor is missing, unexpected or of another shape; nothing is changed then.
    """
    target = delta(model)
    for name in target.keys() | trained.keys():
        if name not in trained:
            raise MethodError(f"delta: tensor {name} is missing")
        if name not in target:
            raise MethodError(f"delta: tensor {name} is not trained by {model.peft.method}")
        shape, expected = tuple(trained[name].shape), tuple(target[name].shape)
        if shape != expected:
            raise MethodError(f"delta: tensor {name} has shape {shape}, expected {expected}")
    for name, value in trained.items():
        target[name].copy_(value)
    return model


def merge(model: nn.Module) -> nn.Module:
    """A plain timm model with the same function; the given model is left as it is.

    Frozen tensors that merging does not change are shared between the two, not copied.

    Raises:
        CannotMerge: no plain timm model equals it; the method's file says why in CANNOT_MERGE, or
            one of its modules does if that depends on the backbone or the options.
    """
    if reason := cannot_merge(model):
        raise CannotMerge(f"{model.peft.method} cannot be merged: {reason}")
    plain = copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Adapted):
                setattr(parent, name, child.merged())
    for merge in Anatomy(plain).merges:
        merge.absorb_bias()
    plain._modules.pop("shared", None)  # what layers shared (Anatomy.share) is folded into them
    del plain.peft
    return plain.requires_grad_(False)


def cannot_merge(model: nn.Module) -> str | None:
    """Why `merge` refuses this model; None if it does not."""
    parts = (registry.module(model.peft.method), *model.modules())
    reasons = (getattr(part, "CANNOT_MERGE", None) for part in parts)
    return next(filter(None, reasons), None)
