"""AdaptFormer: a bottleneck branch beside the MLP of every block.

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS
2022.

    Z = Y + MLP(LN(Y)) + s (ReLU(Y A + a) B + b),    A: D x r,  a: r,  B: r x D,  b: D

The branch sees Y before the norm and is outside the drop path. A starts Kaiming-uniform
(a = sqrt 5), the rest at zero, so the start is the pre-trained function; dropout on the r-wide
code. The authors use r = 64; Table 2's row has r = 8, and a scale s chosen per task.

Parameters: 2 D r + r + D a block.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from .anatomy import AdaptedBlock, Anatomy

CANNOT_MERGE = "the parallel branch is not linear"


@dataclass(frozen=True)
class Options:
    bottleneck: int = 8
    scale: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"option bottleneck: found {self.bottleneck}, expected 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"option dropout: found {self.dropout}, expected 0 <= p < 1")


class AdaptFormerBlock(AdaptedBlock):
    def __init__(self, base: nn.Module, width: int, options: Options):
        super().__init__(base)
        self.scale = options.scale
        down, up = nn.Linear(width, options.bottleneck), nn.Linear(options.bottleneck, width)
        nn.init.kaiming_uniform_(down.weight, math.sqrt(5))
        for tensor in (down.bias, up.weight, up.bias):
            nn.init.zeros_(tensor)
        branch = nn.Sequential(down, nn.ReLU(), nn.Dropout(options.dropout), up)
        self.adapter = branch.to(next(base.parameters()))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_branch(x)
        return x + self.mlp_branch(x) + self.scale * self.adapter(x)


def attach(anatomy: Anatomy, options: Options) -> None:
    for block in anatomy.blocks:
        block.block.put(AdaptFormerBlock(block.block.module, block.width, options))


def count(anatomy: Anatomy, options: Options) -> int:
    r = options.bottleneck
    return sum(2 * block.width * r + r + block.width for block in anatomy.blocks)
