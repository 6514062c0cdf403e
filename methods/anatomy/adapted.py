"""How a method takes over a timm module: `Adapted`, and `AdaptedBlock` for a whole block."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from timm.models.vision_transformer import Block as ViTBlock
from torch import Tensor, nn

from ..errors import MethodError


def fresh(like: Tensor, *shape: int, init: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """A trainable parameter on `like`'s device: float32, or float64 if `like` is."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return nn.Parameter(init(torch.empty(shape, device=like.device, dtype=dtype)))


class Adapted(nn.Module):
    """A module that takes over a timm module's tensors, under their names, and adds its own.

    Subclass it together with the module's type, `class Scaled(Adapted, nn.Linear)`, create
    parameters with `new`, override `forward`, and give `folded` if the result can be written as
    the plain module with other weights; else say why not in a class attribute CANNOT_MERGE.

    fast: a class that has a faster way to its result than autograd's sets True here, and takes the
    plain way where an instance has False.
    """

    fast: bool | None = None

    def __init__(self, base: nn.Module):
        nn.Module.__init__(self)
        self.__dict__.update({key: _copied(value) for key, value in base.__dict__.items()})
        self.base_type, self.base_attributes = type(base), tuple(base.__dict__)

    def new(self, *shape: int, init: Callable[[Tensor], Tensor]) -> nn.Parameter:
        """A trainable parameter like the module's own (see `fresh`)."""
        return fresh(next(self.parameters()), *shape, init=init)

    def folded(self) -> dict[str, Tensor]:
        """The plain module's tensors that give the same function, such as weight and bias."""
        raise NotImplementedError

    def merged(self) -> nn.Module:
        """The plain module, of the type that was there before, with the folded tensors."""
        plain = self.base_type.__new__(self.base_type)
        nn.Module.__init__(plain)
        for key in self.base_attributes:
            plain.__dict__[key] = _copied(self.__dict__[key])
        plain._parameters = {name: self._parameters[name] for name in ("weight", "bias")}
        plain._buffers, plain._modules = {}, {}
        for name, value in self.folded().items():
            value = value.detach().to(self.weight.dtype)
            plain._parameters[name] = nn.Parameter(value, requires_grad=False)
        return plain


def _copied(value):
    """A copy of a dict or set, so that additions do not reach the original; else the value."""
    return value.copy() if isinstance(value, dict | set) else value


def refer(module: nn.Module, shared: nn.Module) -> None:
    """Make `shared` an attribute of `module` but not a child, so that its tensors keep one name.

    It is registered once elsewhere (`Anatomy.share`), and so is moved, saved and trained from
    there; deepcopy and pickle keep the reference to the same object.
    """
    module.__dict__["shared"] = shared


class AdaptedBlock(Adapted):
    """A transformer block as its two residual branches, for a method that changes what is between.

    Tokens x are (B, N, D) on a ViT and (B, H, W, D) on Swin. A branch includes timm's layer scale
    and drop path, and not the addition: the plain block is y = x + attention(x), y + mlp(y).

    Raises:
        MethodError: another type of block (post-norm, parallel), or a Swin of variable image size.
    """

    def __init__(self, base: nn.Module):
        if type(base) not in (ViTBlock, SwinTransformerBlock):
            raise MethodError(f"{type(base).__name__}: not timm's plain pre-norm block")
        super().__init__(base)
        self.on_swin = self.base_type is SwinTransformerBlock
        if self.on_swin and self.dynamic_mask:
            raise MethodError("this method needs a Swin of fixed image size (strict_img_size)")

    def attention_branch(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        y = self.base_type._attn(self, y) if self.on_swin else self.ls1(self.attn(y))
        return self.drop_path1(y)

    def mlp_branch(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm2(x))
        return self.drop_path2(y if self.on_swin else self.ls2(y))

    def split_windows(self, x: Tensor) -> Tensor:
        """Swin: (B, H, W, D) -> (B, windows, tokens of a window, D), shifted first if need be."""
        (h, w), (down, right) = self.window_size, self.shift_size
        x = F.pad(x.roll((-down, -right), (1, 2)), (0, 0, 0, -x.shape[2] % w, 0, -x.shape[1] % h))
        return window_partition(x, (h, w)).reshape(x.shape[0], -1, h * w, x.shape[-1])

    def join_windows(self, windows: Tensor, height: int, width: int) -> Tensor:
        """Swin: what `split_windows` made, back to (B, H, W, D)."""
        (h, w), (down, right) = self.window_size, self.shift_size
        padded = height + -height % h, width + -width % w
        x = window_reverse(windows.reshape(-1, h, w, windows.shape[-1]), (h, w), *padded)
        return x[:, :height, :width].roll((down, right), (1, 2))

    def attend(self, windows: Tensor) -> Tensor:
        """Swin's attention in each window of (B, windows, p + tokens of a window, D).

        p tokens may come before the window's own: relative-position bias and shift mask are 0 for
        them, that is, they see and are seen by the whole window.
        """
        attn, p = self.attn, windows.shape[2] - self.window_area
        qkv = attn.qkv(windows).unflatten(-1, (3, attn.num_heads, -1))
        q, k, v = qkv.transpose(2, 4).unbind(3)  # B, windows, heads, tokens, head width
        bias = attn._get_rel_pos_bias()
        if self.attn_mask is not None:
            bias = bias + self.attn_mask[:, None]
        scores = (q * attn.scale) @ k.transpose(-1, -2) + F.pad(bias, (p, 0, p, 0))
        y = attn.attn_drop(scores.softmax(-1)) @ v
        return attn.proj_drop(attn.proj(y.transpose(2, 3).flatten(3)))
