"""Partial-k: only the last k blocks and the final norm are trained.

A baseline of Jia et al., "Visual Prompt Tuning", ECCV 2022. On Swin a patch merging is trained
when it lies between two trained blocks. On Swin-B, Partial-1 is the last block, Partial-2 the last
stage, Partial-4 the last stage, the merging before it and two blocks of the stage before.

Parameters: k (12 D^2 + 13 D) + 2 D on a ViT; on Swin a block also has its relative-position table
(169 entries a head for windows of 7) and a merging from width d to 2 d has 8 d^2 + 8 d.
"""

from dataclasses import dataclass

from .anatomy import Anatomy, Block, Merging


@dataclass(frozen=True)
class Options:
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"option blocks: found {self.blocks}, expected 1 or more")


def chosen(anatomy: Anatomy, options: Options) -> tuple[list[Block], list[Merging]]:
    blocks = anatomy.layers(f"last:{options.blocks}")
    return blocks, [merge for merge in anatomy.merges if merge.stage >= blocks[0].stage]


def attach(anatomy: Anatomy, options: Options) -> None:
    blocks, merges = chosen(anatomy, options)
    slots = [block.block for block in blocks] + [merge.merging for merge in merges]
    for slot in [*slots, anatomy.norm]:
        slot.module.requires_grad_(True)


def count(anatomy: Anatomy, options: Options) -> int:
    blocks, merges = chosen(anatomy, options)
    total = 2 * anatomy.width
    for block in blocks:
        total += 12 * block.width**2 + 13 * block.width
        total += block.position_table
    widths = (merge.reduction.module.in_features // 4 for merge in merges)
    return total + sum(8 * d * d + 8 * d for d in widths)
