"""RLRR: a frozen weight plus the same weight rescaled from both sides.

Dong et al., "Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design Approach", CVPR
2024, Eq. 16.

    Y = X (W + diag(l) W diag(r)) + b + f,    l: in,  r: out,  f: out

that is, W[i, j] is multiplied by 1 + l_i r_j (Eq. 19). Without `residual` the 1 is gone, without
`left` or `right` that vector is all ones (Table 6). LayerNorms get SSF's scale and shift.

Placement as in the authors' code: ViT: q, k, v (apart), out, fc1, fc2, both norms, and outside the
blocks the patch convolution and the final norm (scale and shift). Swin: qkv as one layer, out, fc1,
fc2, both norms, and outside the merging reductions (Eq. 16) and the final norm.

`init="authors"`: l ~ U(+-sqrt(6/in)) and r ~ U(+-sqrt 6), what Kaiming-uniform makes of the code's
(1 x in) and (out x 1) tensors: a random 2/sqrt(in) relative change of W (7 % at 768), not the
identity; f = 0; scale ~ N(1, .02), shift ~ N(0, .02). The authors publish no start for Table 6's
variants; here it is N(1, .02) without the residual and N(0, .02) for one side with it.
`init="identity"` starts at the pre-trained function: r = 0, or ones without the residual.

Parameters: ViT 31 L D + 4 D (ViT-B/16: 288,768); one side 22 L D + 4 D; Swin 29 SD + 7 d a merging
+ 2 d_last. A block's MHA has 12 D, FFN 15 D, norms 4 D.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .anatomy import Adapted, Anatomy, Slot
from .products.rescaled import Rescaled, rescale
from .ssf import scale_shift


@dataclass(frozen=True)
class Options:
    left: bool = True
    right: bool = True
    residual: bool = True
    shift: bool = True
    modules: tuple[Literal["q", "k", "v", "out", "fc1", "fc2", "norm"], ...] = (
        *("q", "k", "v", "out", "fc1", "fc2", "norm"),
    )
    layers: str = "all"  # or first:3, last:3, 0-2,5, none
    outside_blocks: bool = True  # what the authors adapt before, between and after the blocks
    qkv: Literal["auto", "split", "fused"] = "auto"  # auto: split on ViT, fused on Swin
    init: Literal["authors", "identity"] = "authors"

    def __post_init__(self) -> None:
        if not (self.left or self.right or self.shift):
            raise ValueError("left, right and shift are all off: nothing to train")


class RLRRLinear(Adapted, nn.Linear):
    """A linear layer whose `groups` equal parts of its rows `rows` are rescaled, each with its l.

    left: groups x in; right, shift_bias: number of rows. The name shift_bias matters: the authors'
    weight decay spares what has "bias" or "norm" in its name.
    """

    fast = True  # else plain autograd, which keeps the rescaled weight for the backward pass

    def __init__(self, base: nn.Linear, rows: Tensor | None, groups: int, options: Options):
        super().__init__(base)
        self.groups, self.residual = groups, options.residual
        self.register_buffer("rows", rows, persistent=False)  # None: all of them
        n = self.out_features if rows is None else len(rows)
        one_sided = options.left != options.right
        start, std = (0.0, 0.02) if self.residual else (1.0, 0.02)

        def init(bound: float, zero: bool) -> Callable[[Tensor], Tensor]:
            if self.residual and not one_sided:  # the product is what matters: one factor may be 0
                bound = 0.0 if zero else bound
                return lambda t: nn.init.uniform_(t, -bound, bound)
            return lambda t: nn.init.normal_(t, start, 0.0 if options.init == "identity" else std)

        identity = options.init == "identity"
        self.left = self.right = self.shift_bias = None
        if options.left:
            bound = math.sqrt(6 / self.in_features)
            self.left = self.new(groups, self.in_features, init=init(bound, zero=False))
        if options.right:
            self.right = self.new(n, init=init(math.sqrt(6), zero=identity))
        if options.shift:
            self.shift_bias = self.new(n, init=nn.init.zeros_)

    def rescaled(self) -> tuple[Tensor, Tensor | None]:
        """The weight (out x in) and the bias (out) that the layer acts with."""
        weight, shift = self.weight, self.shift_bias
        if self.rows is None:
            weight = self._rescale(weight)
        else:
            part = self._rescale(weight[self.rows]).to(weight.dtype)
            weight = weight.index_copy(0, self.rows, part)
            if shift is not None:
                shift = shift.new_zeros(self.out_features).index_copy(0, self.rows, shift)
        if self.bias is None or shift is None:
            return weight, self.bias if shift is None else shift
        return weight, self.bias + shift

    def _rescale(self, weight: Tensor) -> Tensor:
        return rescale(weight, self.left, self.right, self.groups, self.residual)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.fast and self.rows is None):
            return F.linear(x, *self.rescaled())
        bias = self.shift_bias
        if self.bias is not None:
            bias = self.bias if bias is None else self.bias + bias
        how = (self.groups, self.residual)
        return Rescaled.apply(x, self.weight, bias, self.left, self.right, how)

    def folded(self) -> dict[str, Tensor]:
        weight, bias = self.rescaled()
        return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def attach(anatomy: Anatomy, options: Options) -> None:
    std = 0.0 if options.init == "identity" else 0.02
    split = options.qkv == "split" or (options.qkv == "auto" and anatomy.kind == "vit")

    def rescale(slot: Slot, parts: dict[str, slice]) -> None:
        layer = slot.module
        covered = sum(rows.stop - rows.start for rows in parts.values())
        rows = None
        if covered < layer.out_features:
            index = [torch.arange(part.start, part.stop) for part in parts.values()]
            rows = torch.cat(index).to(layer.weight.device)
        groups = len(parts) if split else 1
        slot.put(RLRRLinear(layer, rows, groups, options))

    for block in anatomy.layers(options.layers):
        for slot, parts in block.linears(options.modules):
            rescale(slot, parts)
        if "norm" in options.modules:
            scale_shift(block.norm1, std)
            scale_shift(block.norm2, std)
    if options.outside_blocks:
        if anatomy.kind == "vit":
            scale_shift(anatomy.patch, std)
        for merge in anatomy.merges:
            rescale(merge.reduction, {"reduction": slice(0, merge.reduction.module.out_features)})
        scale_shift(anatomy.norm, std)


def count(anatomy: Anatomy, options: Options) -> int:
    split = options.qkv == "split" or (options.qkv == "auto" and anatomy.kind == "vit")

    def linear(d_in: int, d_out: int, lefts: int = 1) -> int:
        return options.left * lefts * d_in + (options.right + options.shift) * d_out

    total = 0
    for block in anatomy.layers(options.layers):
        d, parts = block.width, set(options.modules)
        qkv = len(parts & {"q", "k", "v"})
        total += linear(d, qkv * d, qkv if split else 1) if qkv else 0
        total += linear(d, d) if "out" in parts else 0
        total += linear(d, 4 * d) if "fc1" in parts else 0
        total += linear(4 * d, d) if "fc2" in parts else 0
        total += 4 * d if "norm" in parts else 0
    if options.outside_blocks:
        total += 2 * anatomy.blocks[0].width if anatomy.kind == "vit" else 0
        reductions = (merge.reduction.module for merge in anatomy.merges)
        total += sum(linear(layer.in_features, layer.out_features) for layer in reductions)
        total += 2 * anatomy.blocks[-1].width
    return total
