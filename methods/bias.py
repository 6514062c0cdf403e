"""Bias (BitFit): only additive terms are trained, X W + (b + db).

Ben Zaken et al., "BitFit", ACL 2022.

Every parameter whose name contains "bias" is trained, as in VPT's code, from which the paper's rows
come. On a Swin this includes the relative-position bias tables; the printed 0.25 M needs them.

Parameters: ViT 11 L D + 2 D (patch convolution, q, k, v, out, fc1, fc2, both norms, final norm);
Swin 11 SD (SD: sum of the block widths) + tables + norms of patch embedding, mergings and end.
"""

from .anatomy import Anatomy


def attach(anatomy: Anatomy, options: object) -> None:
    for name, parameter in anatomy.model.named_parameters():
        if "bias" in name:
            parameter.requires_grad_(True)


def count(anatomy: Anatomy, options: object) -> int:
    """Patch convolution, blocks and final norm; on Swin also the tables and the other norms."""
    blocks = sum(11 * block.width for block in anatomy.blocks)
    ends = anatomy.blocks[0].width + anatomy.blocks[-1].width
    if anatomy.kind == "vit":
        return blocks + ends
    tables = sum(block.position_table for block in anatomy.blocks)
    merging_norms = sum(merge.reduction.module.in_features for merge in anatomy.merges)
    return blocks + ends + tables + anatomy.blocks[0].width + merging_norms
