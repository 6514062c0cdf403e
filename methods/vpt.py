"""VPT: learnt tokens beside the image's, on a frozen backbone.

Jia et al., "Visual Prompt Tuning", ECCV 2022.

    shallow: block 1 sees [cls; P; patches], and its prompt outputs go on to block 2, ...
    deep:    block l sees [cls; P_l; patches]; the outputs of P_l are dropped.    P: p x D

On a ViT prompts enter after the position table was added. On Swin they are put before the tokens of
every window, with a zero relative-position bias and shift mask; their outputs are averaged over the
windows of the image; at a patch merging a prompt is repeated 4 times along its channels, then norm
and reduction; and the last block's are part of the mean over tokens that is classified.

P ~ U(-v, v), v = sqrt(6 / (3 patch^2 + D of the patch embedding)). Dropout on the prompts: 0 in
shallow, 0.1 in deep. The authors' Swin code lays the prompts out window by window but the windows
image by image, so that in shallow mode the images of a batch influence each other; here they do
not. Its deep mode also drops the same prompt entries for the whole batch after the first block.

Parameters: p D_first (shallow), p SD (deep; SD: sum of the block widths).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .anatomy import Adapted, AdaptedBlock, Anatomy, Block, MethodError
from .anatomy.swin import attend, join_windows, split_windows

CANNOT_MERGE = "prompts are extra tokens, no weights"


@dataclass(frozen=True)
class Options:
    mode: Literal["shallow", "deep"] = "deep"
    prompts: int = 10
    dropout: float | None = None  # None: 0 in shallow, 0.1 in deep

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise ValueError(f"option prompts: found {self.prompts}, expected 1 or more")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"option dropout: found {self.dropout}, expected 0 <= p < 1")


class PromptedBlock(AdaptedBlock):
    """A ViT block on (B, N, D) that sees its own prompts instead of any that came before."""

    def __init__(self, block: Block, prefix: int, bound: float, options: Options):
        super().__init__(block.block.module)
        deep, first = options.mode == "deep", block.index == 0
        self.length, self.prefix = options.prompts, prefix
        self.replaced = options.prompts if deep and not first else 0
        self.prompts = None
        if deep or first:
            shape = (options.prompts, block.width)
            self.prompts = self.new(*shape, init=lambda t: nn.init.uniform_(t, -bound, bound))
        default = 0.1 if deep else 0.0
        self.dropout = nn.Dropout(default if options.dropout is None else options.dropout)

    def with_prompts(self, x: Tensor) -> Tensor:
        if self.prompts is None:
            return x
        prompts = self.dropout(self.prompts.to(x.dtype).expand(x.shape[0], -1, -1))
        return torch.cat([x[:, : self.prefix], prompts, x[:, self.prefix + self.replaced :]], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.with_prompts(x)
        x = x + self.attention_branch(x)
        return x + self.mlp_branch(x)


class PromptedSwinBlock(PromptedBlock):
    """A Swin block on (B, p + H W, D), or (B, H, W, D) when it is the first; gives the former."""

    def __init__(self, block: Block, prefix: int, bound: float, options: Options):
        super().__init__(block, prefix, bound, options)
        self.grid = block.grid or (0, 0)  # Swin's blocks have one

    def with_prompts(self, x: Tensor) -> Tensor:
        return super().with_prompts(x.flatten(1, 2) if x.dim() == 4 else x)

    def attention_branch(self, x: Tensor) -> Tensor:
        p, y = self.length, self.norm1(x)
        windows = split_windows(self, y[:, p:].unflatten(1, self.grid))
        prompts = y[:, None, :p].expand(-1, windows.shape[1], -1, -1)
        windows = attend(self, torch.cat([prompts, windows], 2))
        patches = join_windows(self, windows[:, :, p:], *self.grid).flatten(1, 2)
        return self.drop_path1(torch.cat([windows[:, :, :p].mean(1), patches], 1))


class PromptedMerging(Adapted):
    """A Swin patch merging on (B, p + H W, D) -> (B, p + H W / 4, 2 D)."""

    def __init__(self, base: nn.Module, length: int, grid: tuple[int, int]):
        super().__init__(base)
        self.length, self.grid = length, grid

    def forward(self, x: Tensor) -> Tensor:
        patches = self.base_type.forward(self, x[:, self.length :].unflatten(1, self.grid))
        prompts = self.reduction(self.norm(x[:, : self.length].repeat(1, 1, 4)))
        return torch.cat([prompts, patches.flatten(1, 2)], 1)


class PromptedNorm(Adapted, nn.LayerNorm):
    """The final norm: (B, p + H W, D) -> (B, 1, p + H W, D), as the head pools over a plane."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, None]


def attach(anatomy: Anatomy, options: Options) -> None:
    if anatomy.kind == "vit" and anatomy.pooling != "token":
        raise MethodError("vpt: on a ViT the class token must be what is classified")
    patch = anatomy.patch.module.weight  # D x channels x height x width
    bound = math.sqrt(6 / (patch[0].numel() + len(patch)))
    cls = PromptedBlock if anatomy.kind == "vit" else PromptedSwinBlock
    grids: dict[int, tuple[int, int]] = {}
    for block in anatomy.blocks:
        grids[block.stage] = block.grid or (0, 0)
        if anatomy.kind == "swin" or options.mode == "deep" or block.index == 0:
            block.block.put(cls(block, anatomy.prefix, bound, options))
    for merge in anatomy.merges:
        slot = merge.merging
        slot.put(PromptedMerging(slot.module, options.prompts, grids[merge.stage]))
    if anatomy.kind == "swin":
        anatomy.norm.put(PromptedNorm(anatomy.norm.module))


def count(anatomy: Anatomy, options: Options) -> int:
    widths = [block.width for block in anatomy.blocks]
    return options.prompts * (sum(widths) if options.mode == "deep" else widths[0])
