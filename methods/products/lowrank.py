"""X W^T + b + C U, where W and b are frozen: a linear layer with a low-rank update, in one output.

Autograd's way writes the update to a tensor as large as the output and then adds the two.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class LowRankSum(torch.autograd.Function):
    """x: ... x in; weight: out x in; code C: ... x r or ... x groups x r; up U: r x out / groups.

    Every group of columns of the output has its own code and shares U. Gradients for x, C and U.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, code: Tensor, up: Tensor
    ) -> Tensor:
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            raise RuntimeError("the layer under a low-rank update must be frozen")
        y = F.linear(x, weight, bias)
        low, high = code.reshape(-1, code.shape[-1]).to(y.dtype), up.to(y.dtype)
        y.view(-1, up.shape[1]).addmm_(low, high)
        ctx.save_for_backward(weight, low, high)
        ctx.types, ctx.shape = (x.dtype, code.dtype, up.dtype), code.shape
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, low, high = ctx.saved_tensors
        of_x, of_code, of_up = ctx.types
        rows = grad.reshape(-1, high.shape[1])
        dx = dcode = dup = None
        if ctx.needs_input_grad[0]:
            dx = (grad @ weight.to(grad.dtype)).to(of_x)
        if ctx.needs_input_grad[3]:
            dcode = (rows @ high.t()).to(of_code).view(ctx.shape)
        if ctx.needs_input_grad[4]:
            dup = (low.t() @ rows).to(of_up)
        return dx, None, None, dcode, dup
