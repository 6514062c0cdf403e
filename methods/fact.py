"""FacT: the increments of all weights as one factorised tensor (ViT only).

Jie and Deng, "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", AAAI 2023.

    dW_t = s U S_t V,    U: D x r,  V: r x D  for the whole network,  S_t: r x r  for the slice t
    tt:  S_t is a parameter
    tk:  S_t = sum_k P[k, t] C[:, :, k],    C: r x r x r,  P: r x 12 L

A block has 12 slices of D x D: q, k, v, out, four groups of columns of fc1, four groups of rows of
fc2; Y = X (W + dW) + b with dropout before V. V starts at zero, so the start is the pre-trained
function; U ~ U(+-1/sqrt D); C and P Xavier-uniform; in "tt" S_t ~ U(+-1/sqrt r), fc2's half that.

In "tk" the authors' code flattens the four S_t of fc1 to r x 4r with t fastest, so that its column
group g interleaves all four, and uses fc2's in the same layout, transposed. `slices="code"` does
that, "paper" is the equation above.

Parameters: tk 2 D r + 12 L r + r^3; tt 2 D r + 12 L r^2.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .anatomy import Adapted, Anatomy, MethodError
from .anatomy.adapted import fresh, refer
from .products.lowrank import LowRankSum


@dataclass(frozen=True)
class Options:
    mode: Literal["tk", "tt"] = "tk"
    rank: int = 16
    scale: float = 1.0
    slices: Literal["paper", "code"] = "paper"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"option rank: found {self.rank}, expected 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"option dropout: found {self.dropout}, expected 0 <= p < 1")


class Factors(nn.Module):
    """What all layers share: U, V and, in "tk", C and P (one column for each slice)."""

    def __init__(self, like: Tensor, width: int, slices: int, options: Options):
        super().__init__()
        r, bound = options.rank, 1 / math.sqrt(width)
        self.U = fresh(like, width, r, init=lambda t: nn.init.uniform_(t, -bound, bound))
        self.V = fresh(like, r, width, init=nn.init.zeros_)
        if options.mode == "tk":
            self.C = fresh(like, r, r, r, init=nn.init.xavier_uniform_)
            self.P = fresh(like, r, slices, init=nn.init.xavier_uniform_)


class FacTLinear(Adapted, nn.Linear):
    """A linear layer with the increments of its slices: `groups_in` x `groups_out` of D x D."""

    fast = True

    def __init__(self, base: nn.Linear, shared: Factors, first_slice: int, options: Options):
        super().__init__(base)
        refer(self, shared)
        self.width, r = len(shared.U), options.rank
        self.groups_in = self.in_features // self.width
        self.groups_out = self.out_features // self.width
        n = self.groups_in * self.groups_out
        self.columns = slice(first_slice, first_slice + n)
        self.scaling, self.dropout = options.scale, nn.Dropout(options.dropout)
        self.interleaved = options.slices == "code" and n == 4
        self.S = None
        if options.mode == "tt":
            bound = 1 / math.sqrt(self.groups_in * r)
            self.S = self.new(n, r, r, init=lambda t: nn.init.uniform_(t, -bound, bound))

    def cores(self) -> Tensor:
        """The S_t of the layer: groups_in x groups_out x r x r."""
        cores = self.S
        if cores is None:
            cores = torch.einsum("ijk,kt->tij", self.shared.C, self.shared.P[:, self.columns])
            if self.interleaved:
                r = cores.shape[-1]
                flat = cores.permute(1, 2, 0).reshape(r, 4 * r)
                cores = flat.unflatten(1, (4, r)).transpose(0, 1)
                cores = cores if self.groups_in == 1 else cores.transpose(1, 2)
        return cores.unflatten(0, (self.groups_in, self.groups_out))

    def forward(self, x: Tensor) -> Tensor:
        code = x.unflatten(-1, (self.groups_in, self.width)) @ self.shared.U
        code = torch.einsum("...ir,iors->...os", code, self.cores())
        code, up = self.dropout(code), self.scaling * self.shared.V
        if self.fast:
            return LowRankSum.apply(x, self.weight, self.bias, code, up)
        return super().forward(x) + (code @ up).flatten(-2)

    def folded(self) -> dict[str, Tensor]:
        increment = self.shared.U @ self.cores() @ (self.scaling * self.shared.V)
        increment = increment.permute(1, 3, 0, 2).reshape(self.weight.shape)
        return {"weight": self.weight + increment}


def slices(anatomy: Anatomy) -> int:
    """How many D x D slices the weights of all blocks have."""
    if anatomy.kind != "vit":
        raise MethodError("fact: needs one width for all blocks, that is a ViT")
    return 12 * len(anatomy.blocks)


def attach(anatomy: Anatomy, options: Options) -> None:
    like = anatomy.patch.module.weight
    shared = anatomy.share(Factors(like, anatomy.width, slices(anatomy), options))
    for block in anatomy.blocks:
        for slot, offset in ((block.qkv, 0), (block.out, 3), (block.fc1, 4), (block.fc2, 8)):
            slot.put(FacTLinear(slot.module, shared, 12 * block.index + offset, options))


def count(anatomy: Anatomy, options: Options) -> int:
    r, n = options.rank, slices(anatomy)
    cores = n * r + r**3 if options.mode == "tk" else n * r * r
    return 2 * anatomy.width * r + cores
