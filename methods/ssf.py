"""SSF: scale and shift the output of every operation.

Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022; Eq. 13 of the RLRR paper.

    Y = op(X) * g + t,    g, t: last dimension of the output

After the patch convolution, both norms, qkv (fused), out, fc1 (before GELU), fc2 and the final
norm; on Swin also after the patch norm and the merging norm, not after the merging reduction.
Starts at g ~ N(1, 0.02), t ~ N(0, 0.02) as the authors do: not quite the pre-trained function.

The authors' public code leaves out the pairs on Swin's merging norms by mistake (it compares a
string with a list); `merging_norms=False` does as that code does. No printed row depends on it.

Parameters: ViT 22 L D + 4 D; Swin 22 SD + 2 (4d of every merging norm) + 4 d_first + 2 d_last
(Swin-B: 274,432; 267,264 without the merging norms).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .anatomy import Adapted, Anatomy, Slot


@dataclass(frozen=True)
class Options:
    merging_norms: bool = True  # Swin only


class ScaleShift(Adapted):
    """An operation followed by `* scale + shift` on its output channels."""

    channels_last: tuple[int, ...] = (-1,)

    def __init__(self, base: nn.Module, std: float = 0.02):
        super().__init__(base)
        width = self.weight.shape[0]
        self.scale = self.new(width, init=lambda t: nn.init.normal_(t, 1.0, std))
        self.shift = self.new(width, init=lambda t: nn.init.normal_(t, 0.0, std))

    def forward(self, x: Tensor) -> Tensor:
        shape = self.channels_last
        return super().forward(x) * self.scale.view(shape) + self.shift.view(shape)

    def folded(self) -> dict[str, Tensor]:
        scale = self.scale.view(-1, *[1] * (self.weight.dim() - 1))
        bias = self.shift if self.bias is None else self.bias * self.scale + self.shift
        return {"weight": self.weight * scale, "bias": bias}


class ScaleShiftLinear(ScaleShift, nn.Linear):
    pass


class ScaleShiftNorm(ScaleShift, nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        # (n * weight + bias) * scale + shift in one operation: no second output is kept
        tensors = self.folded()
        return F.layer_norm(x, self.normalized_shape, tensors["weight"], tensors["bias"], self.eps)


class ScaleShiftConv(ScaleShift, nn.Conv2d):
    channels_last = (1, -1, 1, 1)


def scale_shift(slot: Slot, std: float = 0.02) -> None:
    """Put a scale and a shift after the operation in `slot`; std 0 starts at the identity."""
    kinds = {nn.Linear: ScaleShiftLinear, nn.LayerNorm: ScaleShiftNorm, nn.Conv2d: ScaleShiftConv}
    cls = next(cls for kind, cls in kinds.items() if isinstance(slot.module, kind))
    slot.put(cls(slot.module, std))


def slots(anatomy: Anatomy, options: Options) -> list[Slot]:
    """Every operation that SSF follows."""
    followed = [anatomy.patch, *([anatomy.patch_norm] if anatomy.patch_norm else [])]
    for b in anatomy.blocks:
        followed += [b.norm1, b.qkv, b.out, b.norm2, b.fc1, b.fc2]
    if options.merging_norms:
        followed += [merge.norm for merge in anatomy.merges]
    return [*followed, anatomy.norm]


def attach(anatomy: Anatomy, options: Options) -> None:
    for slot in slots(anatomy, options):
        scale_shift(slot)


def count(anatomy: Anatomy, options: Options) -> int:
    blocks = sum(22 * block.width for block in anatomy.blocks)
    first, last = anatomy.blocks[0].width, anatomy.blocks[-1].width
    if anatomy.kind == "vit":
        return blocks + 2 * first + 2 * last
    merging_norms = sum(2 * merge.reduction.module.in_features for merge in anatomy.merges)
    return blocks + options.merging_norms * merging_norms + 4 * first + 2 * last
