"""RLRR's product X (W + diag(l) W diag(r)) without a kept copy of every rescaled weight."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED = 2**19  # elements of a weight that a CPU works on at a time, so that they stay in its cache


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
    """X rescale(W)^T + bias, rebuilding the rescaled weight in the backward pass; W is frozen.

    Autograd would keep it, a second copy of every weight of the model. The gradient of the rescaled
    weight, G = dY^T X, is reduced at once: dl_i = sum_o r_o (G W)_oi, dr_o = sum_i l_i (G W)_oi.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        left: Tensor | None,
        right: Tensor | None,
        how: tuple[int, bool],
    ) -> Tensor:
        """how: groups and residual, as `rescale` takes them."""
        if ctx.needs_input_grad[1]:
            raise RuntimeError("the weight under a rescaled product must be frozen")
        ctx.how = how
        y = F.linear(x, _in_parts(weight, left, right, *ctx.how), bias)
        ctx.save_for_backward(x.to(y.dtype), weight, left, right)
        ctx.types = x.dtype, None if bias is None else bias.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, left, right = ctx.saved_tensors
        rows, columns = grad.flatten(0, -2), x.flatten(0, -2)
        dx = dbias = scaled = None
        if ctx.needs_input_grad[0]:
            scaled = _in_parts(weight, left, right, *ctx.how).to(grad.dtype)
            dx = (grad @ scaled).to(ctx.types[0])
        if ctx.needs_input_grad[2]:
            dbias = rows.sum(0).to(ctx.types[1])
        if left is None and right is None:
            return dx, None, dbias, None, None, None
        # G overwrites the rescaled weight, which is still in the cache
        whole = torch.mm(rows.t(), columns, out=scaled).to(weight.dtype)
        reduced = reduce_in_parts if grad.device.type == "cpu" else reduce_at_once
        with torch.autocast(grad.device.type, enabled=False):
            dleft, dright = reduced(whole, weight, left, right, ctx.how[0])
        return dx, None, dbias, dleft, dright, None


def reduce_in_parts(
    whole: Tensor, weight: Tensor, left: Tensor | None, right: Tensor | None, groups: int
) -> tuple[Tensor | None, Tensor | None]:
    """dl and dr from G (`whole`, which is overwritten), some rows at a time."""
    dleft = None if left is None else torch.zeros_like(left)
    dright = None if right is None else torch.empty_like(right)
    for part, group in _parts(weight, groups):
        product = whole[part].mul_(weight[part])
        if dleft is not None:
            dleft[group] += product.sum(0) if right is None else right[part] @ product
        if dright is not None:
            dright[part] = product.sum(1) if left is None else product @ left[group]
    return dleft, dright


def reduce_at_once(
    whole: Tensor, weight: Tensor, left: Tensor | None, right: Tensor | None, groups: int
) -> tuple[Tensor | None, Tensor | None]:
    """The same in as few kernels as possible, for a GPU."""
    product = whole.mul_(weight).view(groups, -1, weight.shape[1])
    dleft = dright = None
    if left is not None:
        by_row = None if right is None else right.view(groups, 1, -1)
        dleft = product.sum(1) if by_row is None else torch.bmm(by_row, product)[:, 0]
    if right is not None:
        by_column = None if left is None else left.unsqueeze(2)
        dright = (product.sum(2) if by_column is None else torch.bmm(product, by_column)).flatten()
    return dleft, dright


def _parts(weight: Tensor, groups: int) -> Iterator[tuple[slice, int]]:
    """Rows of the weight to work on at a time, with their group."""
    size = weight.shape[0] // groups
    step = max(1, CACHED // weight.shape[1])
    for group in range(groups):
        for start in range(group * size, (group + 1) * size, step):
            yield slice(start, min(start + step, (group + 1) * size)), group


def _in_parts(
    weight: Tensor, left: Tensor | None, right: Tensor | None, groups: int, residual: bool
) -> Tensor:
    """`rescale`, on a CPU some rows at a time: half of the traffic between memory and cache."""
    if weight.device.type != "cpu" or left is None or right is None:
        return rescale(weight, left, right, groups, residual)
    scaled = torch.empty_like(weight)
    for part, group in _parts(weight, groups):
        torch.mul(weight[part], right[part, None], out=scaled[part])
        if residual:
            torch.addcmul(weight[part], scaled[part], left[group], out=scaled[part])
        else:
            scaled[part] *= left[group]
    return scaled
