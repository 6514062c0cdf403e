"""timm's SwinTransformer: tokens (B, H, W, D) in a plane, attention in windows, four stages."""

import torch.nn.functional as F
from timm.models.swin_transformer import (
    SwinTransformer,
    SwinTransformerBlock,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from .family import Family
from .slots import Block, Layout, Merging, Slot, block_slots, patch_slots
from .steps import Step, block_step, whole_step


class Swin(Family):
    kind = "swin"
    model_type = SwinTransformer
    block_type = SwinTransformerBlock

    def layout(self, model: nn.Module) -> Layout:
        patch, patch_norm = patch_slots(model)
        blocks: list[Block] = []
        merges: list[Merging] = []
        for number, stage in enumerate(model.layers):
            path = f"layers.{number}"
            if hasattr(stage.downsample, "reduction"):  # the first stage has none
                slot = Slot(stage, "downsample", f"{path}.downsample")
                parts = (slot.inside("norm"), slot.inside("reduction"))
                merges.append(Merging(number - 1, slot, *parts))
            for name, block in stage.blocks.named_children():
                slot = Slot(stage.blocks, name, f"{path}.blocks.{name}")
                grid, window = block.input_resolution, block.attn.window_size
                blocks.append(block_slots(slot, len(blocks), number, grid, window))
        return Layout(
            width=model.num_features,
            prefix=0,
            pooling=model.global_pool,
            patch=patch,
            patch_norm=patch_norm,
            blocks=blocks,
            merges=merges,
            norm=Slot(model, "norm", "norm"),
            before_head=Slot(model.head, "drop", "head.drop"),
            head=Slot(model.head, "fc", "head.fc"),
        )

    def steps(self, model: nn.Module) -> list[Step]:
        stages = [
            step
            for stage in model.layers
            for step in (whole_step(stage.downsample), *map(block_step, stage.blocks))
        ]
        head = (model.head.global_pool, model.head.drop, model.head.fc, model.head.flatten)
        return [whole_step(model.patch_embed), *stages, *map(whole_step, (model.norm, *head))]

    def attention_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        return block.drop_path1(SwinTransformerBlock._attn(block, block.norm1(x)))

    def mlp_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        return block.drop_path2(block.mlp(block.norm2(x)))

    def refusal(self, block: nn.Module) -> str | None:
        if block.dynamic_mask:
            return "this method needs a Swin of fixed image size (strict_img_size)"
        return None


def split_windows(block: nn.Module, x: Tensor) -> Tensor:
    """(B, H, W, D) -> (B, windows, tokens of a window, D), shifted first if the block shifts."""
    (h, w), (down, right) = block.window_size, block.shift_size
    x = F.pad(x.roll((-down, -right), (1, 2)), (0, 0, 0, -x.shape[2] % w, 0, -x.shape[1] % h))
    return window_partition(x, (h, w)).reshape(x.shape[0], -1, h * w, x.shape[-1])


def join_windows(block: nn.Module, windows: Tensor, height: int, width: int) -> Tensor:
    """What `split_windows` made, back to (B, H, W, D)."""
    (h, w), (down, right) = block.window_size, block.shift_size
    padded = height + -height % h, width + -width % w
    x = window_reverse(windows.reshape(-1, h, w, windows.shape[-1]), (h, w), *padded)
    return x[:, :height, :width].roll((down, right), (1, 2))


def attend(block: nn.Module, windows: Tensor) -> Tensor:
    """A block's attention in each window of (B, windows, p + tokens of a window, D).

    p tokens may come before those of the window. Their relative-position bias and shift mask are
    0: they see the whole window, and the whole window sees them.
    """
    attn, p = block.attn, windows.shape[2] - block.window_area
    qkv = attn.qkv(windows).unflatten(-1, (3, attn.num_heads, -1))
    q, k, v = qkv.transpose(2, 4).unbind(3)  # B, windows, heads, tokens, head width
    bias = attn._get_rel_pos_bias()
    if block.attn_mask is not None:
        bias = bias + block.attn_mask[:, None]
    scores = (q * attn.scale) @ k.transpose(-1, -2) + F.pad(bias, (p, 0, p, 0))
    y = attn.attn_drop(scores.softmax(-1)) @ v
    return attn.proj_drop(attn.proj(y.transpose(2, 3).flatten(3)))
