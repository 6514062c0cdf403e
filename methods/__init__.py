"""Parameter-efficient fine-tuning methods for timm's ViT and Swin: one file a method, one registry.

>>> model = timm.create_model("vit_base_patch16_224.orig_in21k", num_classes=100)
>>> model = methods.apply("rlrr", model)            # frozen, RLRR attached, ready to train
>>> methods.delta(model)                            # what was trained, head included
>>> methods.merge(model)                            # a plain timm model again, same function

Importing this package does not import torch: what needs torch is fetched on first use.
"""

from typing import TYPE_CHECKING

from .registry import InputError, MethodError, add_plugin, describe, names, options

if TYPE_CHECKING:
    from .attach import CannotMerge, apply, cannot_merge, delta, load_delta, merge, parameters

_NEEDS_TORCH = (
    "CannotMerge",
    "apply",
    "cannot_merge",
    "delta",
    "load_delta",
    "merge",
    "parameters",
)
__all__ = [
    "CannotMerge",
    "InputError",
    "MethodError",
    "add_plugin",
    "apply",
    "cannot_merge",
    "delta",
    "describe",
    "load_delta",
    "merge",
    "names",
    "options",
    "parameters",
]


def __getattr__(name: str):
    if name in _NEEDS_TORCH:
        from . import attach

        return getattr(attach, name)
    raise AttributeError(f"module 'methods' has no attribute {name!r}")
