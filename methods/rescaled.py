"""RLRR's product X (W + diag(l) W diag(r)) without a kept copy of every rescaled weight."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
