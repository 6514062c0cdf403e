"""What the registry holds, for people: a table of the methods, and counts on any backbone."""

import copy
import dataclasses
from functools import cache

import timm
import torch
from torch import nn

from . import registry
from .errors import MethodError, nearest
from .lifecycle import apply, cannot_merge, parameters

VIT_B = "vit_base_patch16_224.orig_in21k"
SWIN_B = "swin_base_patch4_window7_224.ms_in22k"


def markdown() -> str:
    """The table of methods for a README: every file in the registry, nothing typed by hand."""
    lines = [
        "| name | what it is | options | parameters on ViT-B/16 | merges |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for name in registry.names():
        options = ", ".join(
            f"`{field.name}={text(field.default)}`"
            for field in dataclasses.fields(registry.options(name))
        )
        vit = attached(name, VIT_B)
        where = ["ViT"] if cannot_merge(vit) is None else []
        where += ["Swin"] if merges_on(name, SWIN_B) else []
        merges = {0: "no", 1: f"on {where[0]}" if where else "", 2: "yes"}[len(where)]
        cells = [f"`{name}`", title(name), options, f"{parameters(vit)['peft']:,}", merges]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def title(name: str) -> str:
    """The first line of the method's docstring."""
    return registry.describe(name).split("\n", 1)[0]


def text(value: object) -> str:
    """An option's default as one types it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def merges_on(name: str, backbone: str) -> bool:
    """Whether the method, with its default options, attaches to the backbone and merges."""
    try:
        return cannot_merge(attached(name, backbone)) is None
    except MethodError:  # the method is not for this backbone
        return False


def count(name: str, backbone: str) -> dict[str, int]:
    """Trainable parameters of a method with its default options, head of 100 classes."""
    return parameters(attached(name, backbone))


def attached(name: str, backbone: str) -> nn.Module:
    """A backbone with a method and its default options, without storage."""
    return apply(name, copy.deepcopy(_plain(backbone)))


@cache
def _plain(backbone: str) -> nn.Module:
    """A backbone without storage. It is made once, as timm initialises its weights even so."""
    if not timm.is_model(backbone.partition(".")[0]):
        known = timm.list_models(["vit_*", "swin_*"], pretrained=True)
        raise MethodError(f"unknown backbone {backbone!r}; {nearest(backbone, known)}")
    try:
        with torch.device("meta"):
            return timm.create_model(backbone, num_classes=100)
    except RuntimeError as error:  # a tag that the architecture does not have
        known = timm.list_models(f"{backbone.partition('.')[0]}.*", pretrained=True)
        near = nearest(backbone, known)
        raise MethodError(f"unknown backbone {backbone!r}; {near}") from error
