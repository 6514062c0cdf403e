"""Stochastic depth, the same for every family: timm names both drop paths of a block alike."""

from timm.layers import DropPath
from torch import nn

from ..errors import MethodError


def set_drop_path(model: nn.Module, rate: float, kind: str = "path") -> None:
    """Drop out residual branches: probability 0 in the first block, rising linearly to `rate`.

    It reaches both branches of every block, whether a method has been attached or not: a method
    that takes over a block keeps timm's two drop paths. What was there is replaced, so rate 0 turns
    off what timm's Swin has by default (0.1).

    Args:
        kind: "path" drops a sample's whole branch (timm's stochastic depth); "element" is plain
            dropout on the branch's output, which is what the RLRR code does on a ViT.

    Raises:
        MethodError: another kind, or the rate is not in [0, 1).
    """
    makers = {"path": DropPath, "element": nn.Dropout}
    if kind not in makers:
        raise MethodError(f"drop path kind: found {kind!r}, expected path or element")
    if not 0 <= rate < 1:
        raise MethodError(f"drop path rate: found {rate!r}, expected 0 <= rate < 1")
    blocks = [module for module in model.modules() if hasattr(module, "drop_path2")]
    for index, block in enumerate(blocks):
        p = rate * index / max(len(blocks) - 1, 1)
        for name in ("drop_path1", "drop_path2"):
            drop = makers[kind](p) if p > 0 else nn.Identity()
            setattr(block, name, drop.train(block.training))
