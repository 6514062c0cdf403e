"""How a method takes over a timm module: `Adapted`, and `AdaptedBlock` for a whole block."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .anatomy import family_of_block


def fresh(like: Tensor, *shape: int, init: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """A trainable parameter on `like`'s device: float32, or float64 if `like` is."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return nn.Parameter(init(torch.empty(shape, device=like.device, dtype=dtype)))


class Adapted(nn.Module):
    """A module that takes over a timm module's tensors, under their names, and adds its own.

    Subclass it together with the module's type, `class Scaled(Adapted, nn.Linear)`, create
    parameters with `new`, and override `forward`. If the result can be written as the plain module
    with other weights, override `folded` too; else say why not in a class attribute CANNOT_MERGE.

    fast: True in a class that has a faster way to its result than autograd's. An instance takes
    the plain way if it is set to False there. None: there is one way only.
    """

    fast: bool | None = None

    def __init__(self, base: nn.Module):
        nn.Module.__init__(self)
        self.__dict__.update({key: _copied(value) for key, value in base.__dict__.items()})
        self.base_type: Any = type(base)
        self.base_attributes = tuple(base.__dict__)

    def new(self, *shape: int, init: Callable[[Tensor], Tensor]) -> nn.Parameter:
        """A trainable parameter on the module's device and of its dtype (see `fresh`)."""
        return fresh(next(self.parameters()), *shape, init=init)

    def folded(self) -> dict[str, Tensor]:
        """The plain module's tensors that give the same function, such as weight and bias."""
        raise NotImplementedError

    def merged(self) -> nn.Module:
        """The plain module, of the type that was there before, with the folded tensors."""
        plain: nn.Module = self.base_type.__new__(self.base_type)
        nn.Module.__init__(plain)
        for key in self.base_attributes:
            plain.__dict__[key] = _copied(self.__dict__[key])
        plain._parameters = {name: self._parameters[name] for name in ("weight", "bias")}
        plain._buffers, plain._modules = {}, {}
        for name, value in self.folded().items():
            value = value.detach().to(self.weight.dtype)
            plain._parameters[name] = nn.Parameter(value, requires_grad=False)
        return plain


def _copied(value: Any) -> Any:
    """A copy of a dict or set, so that additions do not reach the original; else the value."""
    return value.copy() if isinstance(value, dict | set) else value


def refer(module: nn.Module, shared: nn.Module) -> None:
    """Make `shared` an attribute of `module` but not a child, so that its tensors keep one name.

    It is registered once, on the model (`Anatomy.share`), and is moved, saved and trained from
    there; deepcopy and pickle keep the reference to the same object.
    """
    module.__dict__["shared"] = shared


class AdaptedBlock(Adapted):
    """A transformer block as its two residual branches, for a method that changes what is between.

    Tokens x are (B, N, D) on a ViT and (B, H, W, D) on Swin. A branch includes timm's layer scale
    and drop path, but not the addition: the plain block is y = x + attention(x), y + mlp(y).

    Raises:
        MethodError: another type of block (post-norm, parallel), or a Swin of variable image size.
    """

    def __init__(self, base: nn.Module):
        family = family_of_block(base)
        super().__init__(base)
        self.family = family

    def attention_branch(self, x: Tensor) -> Tensor:
        return self.family.attention_branch(self, x)

    def mlp_branch(self, x: Tensor) -> Tensor:
        return self.family.mlp_branch(self, x)
