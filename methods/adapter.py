"""Adapter: a small MLP with a residual after the MLP of every block.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019.

    Z = Y + m + act(m A + a) B + b,    m = MLP(LN(Y)),    A: D x r,  a: r,  B: r x D,  b: D

Placement "pfeiffer" (Pfeiffer et al., EACL 2021) as in VPT's code; "houlsby" has a second one after
the attention branch. m includes the branch's drop path, as in NOAH's code. r is `bottleneck`, or
D / `reduction`; with neither the reduction is 64, which is what the paper's parameter column shows.

`init="working"`: A Kaiming-uniform (a = sqrt 5), the rest zero, so the start is the pre-trained
function. `init="zero"` is VPT's code, from which the paper's row comes: all four zero. That start
is dead: act(0) = 0 gives B no gradient and B = 0 gives A and a none, so that only b ever moves.
`init="noah"`: weights truncated normal with std .02, cut at +-2, biases zero. NOAH (Zhang et al.,
TPAMI 2024) has Xavier-uniform weights in its adapter, but the backbone's own initialisation runs
over it once more. It also has bottleneck 8, quick_gelu and dropout 0.1.

Parameters: 2 D r + r + D a block, with `houlsby` twice that.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .anatomy import AdaptedBlock, Anatomy

CANNOT_MERGE = "the adapter is not linear"


@dataclass(frozen=True)
class Options:
    bottleneck: int | None = None
    reduction: int | None = None
    placement: Literal["pfeiffer", "houlsby"] = "pfeiffer"
    init: Literal["working", "zero", "noah"] = "working"
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.bottleneck is not None and self.reduction is not None:
            raise ValueError("options bottleneck and reduction: give one of them")
        for name, value in (("bottleneck", self.bottleneck), ("reduction", self.reduction)):
            if value is not None and value < 1:
                raise ValueError(f"option {name}: found {value}, expected 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"option dropout: found {self.dropout}, expected 0 <= p < 1")


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class AdapterBlock(AdaptedBlock):
    """A block with an adapter on the output of its MLP branch, perhaps of its attention branch."""

    def __init__(self, base: nn.Module, width: int, options: Options):
        super().__init__(base)
        like = next(base.parameters())
        self.mlp_adapter = adapter(width, options).to(like)
        self.attention_adapter = None
        if options.placement == "houlsby":
            self.attention_adapter = adapter(width, options).to(like)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention_branch(x)
        if self.attention_adapter is not None:
            y = y + self.attention_adapter(y)
        x = x + y
        y = self.mlp_branch(x)
        return x + y + self.mlp_adapter(y)


def adapter(width: int, options: Options) -> nn.Sequential:
    down, up = nn.Linear(width, rank(width, options)), nn.Linear(rank(width, options), width)
    with torch.no_grad():
        if options.init == "noah":
            for layer in (down, up):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                layer.bias.zero_()
        else:
            nn.init.kaiming_uniform_(down.weight, math.sqrt(5))
            for tensor in (down.bias, up.weight, up.bias):
                tensor.zero_()
        if options.init == "zero":
            down.weight.zero_()
    activation = nn.GELU() if options.activation == "gelu" else QuickGELU()
    return nn.Sequential(down, activation, nn.Dropout(options.dropout), up)


def rank(width: int, options: Options) -> int:
    return options.bottleneck or max(width // (options.reduction or 64), 1)


def attach(anatomy: Anatomy, options: Options) -> None:
    for block in anatomy.blocks:
        block.block.put(AdapterBlock(block.block.module, block.width, options))


def count(anatomy: Anatomy, options: Options) -> int:
    sites = 2 if options.placement == "houlsby" else 1
    widths = [block.width for block in anatomy.blocks]
    return sites * sum(2 * d * rank(d, options) + rank(d, options) + d for d in widths)
