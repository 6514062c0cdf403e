"""Parameter-efficient fine-tuning methods for timm's ViT and Swin: one file a method, one registry.

>>> model = timm.create_model("vit_base_patch16_224.orig_in21k", num_classes=100)
>>> model = methods.apply("rlrr", model)            # frozen, RLRR attached, ready to train
>>> methods.delta(model)                            # what was trained, head included
>>> methods.merge(model)                            # a plain timm model again, same function

Importing this package does not import torch: what needs torch is fetched on first use.
"""

if __name__ == "methods":  # a second copy of every class, which is not the first one's equal
    raise ImportError("this folder is rlrr_bench.methods: import that, or type rlrr-bench")

from typing import TYPE_CHECKING, Any

from .errors import InputError, MethodError
from .registry import (
    add_plugin,
    code_files,
    code_hash,
    describe,
    display,
    file,
    names,
    options,
    plugins,
)

if TYPE_CHECKING:
    from .lifecycle import CannotMerge, apply, cannot_merge, delta, load_delta, merge, parameters

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
    "code_files",
    "code_hash",
    "delta",
    "describe",
    "display",
    "file",
    "load_delta",
    "merge",
    "names",
    "options",
    "parameters",
    "plugins",
]


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        from . import lifecycle

        return getattr(lifecycle, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
