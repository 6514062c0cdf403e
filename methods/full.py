"""Full fine-tuning: everything is trained.

Parameters: all of the backbone (ViT-B/16: 85,798,656 without the head).
"""

from .anatomy import Anatomy


def attach(anatomy: Anatomy, options: object) -> None:
    anatomy.model.requires_grad_(True)


def count(anatomy: Anatomy, options: object) -> int:
    head = sum(p.numel() for p in anatomy.head.module.parameters())
    return sum(p.numel() for p in anatomy.model.parameters()) - head
