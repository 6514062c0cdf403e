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
identity; f = 0; scale ~ N(1, .02), shift ~ N(0, .02). For Table 6's variants no start is published;
here N(1, .02) without the residual and N(0, .02) for one side with it. `init="identity"` starts at
the pre-trained function: r = 0, or ones without the residual.

Parameters: ViT 31 L D + 4 D (ViT-B/16: 288,768); one side 22 L D + 4 D; Swin 29 SD + 7 d a merging
+ 2 d_last. A block's MHA has 12 D, FFN 15 D, norms 4 D.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .anatomy import Adapted, Anatomy, Slot
from .ssf import scale_shift


@dataclass(frozen=True)
class Options:
    left: bool = True
    right: bool = True
    residual: bool = True
    shift: bool = True
    modules: tuple[Literal["q", "k", "v", "out", "fc1", "fc2", "norm"], ...] = (
        "q",
        "k",
        "v",
        "out",
        "fc1",
        "fc2",
        "norm",
    )
    layers: str = "all"  # or first:3, last:3, 0-2,5, none
    outside_blocks: bool = True  # what the authors adapt before, between and after the blocks
    qkv: Literal["auto", "split", "fused"] = "auto"  # auto: split on ViT, fused on Swin
    init: Literal["authors", "identity"] = "authors"

    def __post_init__(self):
        if not (self.left or self.right or self.shift):
            raise ValueError("left, right and shift are all off: nothing to train")


def rescale(
    weight: Tensor, left: Tensor | None, right: Tensor | None, groups: int, residual: bool
) -> Tensor:
    """weight: out x in, times l r^T of each group of rows, or 1 + l r^T with the residual."""
    if left is None and right is None:
        return weight
    parts = weight.view(groups, -1, weight.shape[1])
    scaled = parts if right is None else parts * right.view(groups, -1, 1)
    if left is None:
        scaled = parts + scaled if residual else scaled
    elif residual:  # W + (W r) l
        scaled = torch.addcmul(parts, scaled, left.view(groups, 1, -1))
    else:
        scaled = scaled * left.view(groups, 1, -1)
    return scaled.flatten(0, 1)


class Rescaled(torch.autograd.Function):
    """X rescale(W)^T + bias, rebuilding the rescaled weight in the backward pass.

    Autograd would keep it, a second copy of every weight of the model. The gradient of the rescaled
    weight, G = dY^T X, is reduced at once: dl_i = sum_o r_o (G W)_oi, dr_o = sum_i l_i (G W)_oi.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, left, right, groups, residual):
        y = F.linear(x, rescale(weight, left, right, groups, residual), bias)
        ctx.save_for_backward(x.to(y.dtype), weight, left, right)
        ctx.how, ctx.types = (groups, residual), (x.dtype, None if bias is None else bias.dtype)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight, left, right = ctx.saved_tensors
        groups = ctx.how[0]
        rows = grad.flatten(0, -2)
        dx = dbias = dleft = dright = None
        if ctx.needs_input_grad[0]:
            dx = (grad @ rescale(weight, left, right, *ctx.how).to(grad.dtype)).to(ctx.types[0])
        if ctx.needs_input_grad[2]:
            dbias = rows.sum(0).to(ctx.types[1])
        if left is not None or right is not None:
            product = (rows.t() @ x.flatten(0, -2)).to(weight.dtype).mul_(weight)
            product = product.view(groups, -1, weight.shape[1])
            if left is not None:
                one = right is None
                dleft = product.sum(1) if one else _sum(right.view(groups, 1, -1), product)
                dleft = dleft.view_as(left)
            if right is not None:
                one = left is None
                dright = product.sum(2) if one else _sum(product, left.unsqueeze(-1))
                dright = dright.reshape(right.shape)
        return dx, None, dbias, dleft, dright, None, None


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """A batch of vector-matrix or matrix-vector products, in full precision under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return torch.bmm(a, b)


class RLRRLinear(Adapted, nn.Linear):
    """A linear layer whose `groups` equal parts of its rows `rows` are rescaled, each with its l.

    left: groups x in; right, shift_bias: number of rows. The name shift_bias matters: the authors'
    weight decay spares what has "bias" or "norm" in its name.
    """

    fast = True  # False: plain autograd, which keeps the rescaled weight for the backward pass

    def __init__(self, base: nn.Linear, rows: Tensor | None, groups: int, options: Options):
        super().__init__(base)
        self.groups, self.residual = groups, options.residual
        self.register_buffer("rows", rows, persistent=False)  # None: all of them
        n = self.out_features if rows is None else len(rows)
        one_sided = options.left != options.right
        start, std = (0.0, 0.02) if self.residual else (1.0, 0.02)

        def init(bound: float, zero: bool):
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
        return Rescaled.apply(
            x, self.weight, bias, self.left, self.right, self.groups, self.residual
        )

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
