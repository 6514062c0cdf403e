"""LoRA: a low-rank increment beside a frozen linear layer.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.

    Y = X (W + s A B) + b,    A: in x r,  B: r x out,  s = alpha / r

`init="paper"`: A Kaiming-uniform (a = sqrt 5), B zero, so the start is the pre-trained function.
`init="noah"`: A and B truncated normal with std .02, cut at +-2, so it is not. In NOAH's code, from
which Table 2's row comes, the backbone's own initialisation runs over these layers once more.

The default is that row's layout: one A shared by q, k and v and one B over the fused qkv, dropout
0.1 on the input of A, s = 1. Separate targets get an A and a B each.

Parameters: r (in + out) a target; 4 r D a block for the fused qkv as for q and v apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .anatomy import Adapted, Anatomy, Block, Slot
from .products.lowrank import LowRankSum


@dataclass(frozen=True)
class Options:
    rank: int = 8
    targets: tuple[Literal["qkv", "q", "k", "v", "out", "fc1", "fc2"], ...] = ("qkv",)
    alpha: float | None = None  # None: alpha = rank, that is s = 1
    dropout: float = 0.1
    init: Literal["paper", "noah"] = "paper"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"option rank: found {self.rank}, expected 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"option dropout: found {self.dropout}, expected 0 <= p < 1")
        if "qkv" in self.targets and {"q", "k", "v"} & set(self.targets):
            raise ValueError("option targets: either qkv (fused) or q, k, v apart")


def _truncated_normal(tensor: Tensor) -> Tensor:
    return nn.init.trunc_normal_(tensor, std=0.02)


STARTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {  # of A, of B
    "paper": (partial(nn.init.kaiming_uniform_, a=math.sqrt(5)), nn.init.zeros_),
    "noah": (_truncated_normal, _truncated_normal),
}


class LoRALinear(Adapted, nn.Linear):
    """A linear layer with one or more low-rank increments, each on its own rows of the output."""

    fast = True  # where there is one increment, of all rows

    def __init__(self, base: nn.Linear, rows: dict[str, slice], options: Options):
        super().__init__(base)
        r = options.rank
        self.rows = rows
        self.scaling = 1.0 if options.alpha is None else options.alpha / r
        self.dropout = nn.Dropout(options.dropout)
        (first, part), *others = rows.items()
        self.whole = first if not others and part == slice(0, self.out_features) else None
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        start_A, start_B = STARTS[options.init]
        for name, part in rows.items():
            self.lora_A[name] = self.new(r, self.in_features, init=start_A)
            self.lora_B[name] = self.new(part.stop - part.start, r, init=start_B)

    def forward(self, x: Tensor) -> Tensor:
        if self.fast and self.whole:
            code = F.linear(self.dropout(x), self.lora_A[self.whole])
            up = self.scaling * self.lora_B[self.whole].t()
            return LowRankSum.apply(x, self.weight, self.bias, code, up)
        y = super().forward(x)
        x = self.dropout(x)
        for name, part in self.rows.items():
            update = F.linear(F.linear(x, self.lora_A[name]), self.scaling * self.lora_B[name])
            if update.shape == y.shape:
                y = y + update
            else:
                y[..., part] += update
        return y

    def folded(self) -> dict[str, Tensor]:
        weight = self.weight.clone()
        for name, part in self.rows.items():
            weight[part] += self.scaling * self.lora_B[name] @ self.lora_A[name]
        return {"weight": weight}


def targets(block: Block, options: Options) -> list[tuple[Slot, dict[str, slice]]]:
    """The layers of a block to adapt, with the output rows of every target."""
    layers = block.linears(options.targets)
    if "qkv" in options.targets:
        layers.insert(0, (block.qkv, {"qkv": slice(0, 3 * block.width)}))
    return layers


def attach(anatomy: Anatomy, options: Options) -> None:
    for block in anatomy.blocks:
        for slot, rows in targets(block, options):
            slot.put(LoRALinear(slot.module, rows, options))


def count(anatomy: Anatomy, options: Options) -> int:
    return sum(
        options.rank * (slot.module.in_features + part.stop - part.start)
        for block in anatomy.blocks
        for slot, rows in targets(block, options)
        for part in rows.values()
    )
