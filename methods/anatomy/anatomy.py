"""`Anatomy`: one view of every family of backbones, and which family a model is of."""

from torch import nn

from ..errors import MethodError
from .family import Family
from .slots import Block, Layout
from .steps import Step, whole_step
from .swin import Swin
from .vit import ViT

FAMILIES: tuple[Family, ...] = (ViT(), Swin())


class Anatomy(Layout):
    """Where things are in a timm model; see `Layout` for what there is.

    Attributes:
        model: the model itself.
        kind: its family, "vit" or "swin".

    Raises:
        MethodError: the model is of no family that methods know.
    """

    def __init__(self, model: nn.Module):
        family = family_of(model)
        if family is None:
            known = " and ".join(family.model_type.__name__ for family in FAMILIES)
            raise MethodError(f"{type(model).__name__}: methods attach to timm's {known}")
        super().__init__(**vars(family.layout(model)))
        self.model, self.kind = model, family.kind

    def share(self, tensors: nn.Module) -> nn.Module:
        """Register what several layers of a method share, once, as `model.shared`; returns it.

        A layer keeps a reference (`adapted.refer`), so that every tensor has one name only.
        """
        self.model.shared = tensors
        return tensors

    def layers(self, spec: str) -> list[Block]:
        """Blocks by a spec: "all", "none", "first:3", "last:3", or indices from 0 such as "0-2,5".

        Raises:
            MethodError: not a spec, or a block that the model does not have.
        """
        depth = len(self.blocks)
        how, _, number = spec.partition(":")
        try:
            if spec in ("all", "none"):
                chosen = list(range(depth if spec == "all" else 0))
            elif how in ("first", "last"):
                k = int(number)
                chosen = list(range(k) if how == "first" else range(depth - k, depth))
            else:
                chosen = []
                for part in spec.split(","):
                    start, _, end = part.partition("-")
                    chosen.extend(range(int(start), int(end or start) + 1))
        except ValueError:
            raise MethodError(
                f"layers {spec!r}: expected all, none, first:K, last:K or indices like 0-2,5"
            ) from None
        if any(not 0 <= i < depth for i in chosen):
            raise MethodError(f"layers {spec!r}: the model has blocks 0 to {depth - 1}")
        return [self.blocks[i] for i in sorted(set(chosen))]


def family_of(model: nn.Module) -> Family | None:
    """The family that a model is of; None if methods know none."""
    return next((family for family in FAMILIES if isinstance(model, family.model_type)), None)


def family_of_block(block: nn.Module) -> Family:
    """The family that a plain block is of.

    Raises:
        MethodError: another type of block (post-norm, parallel), or one of a Swin of variable image
            size.
    """
    family = next((family for family in FAMILIES if type(block) is family.block_type), None)
    if family is None:
        raise MethodError(f"{type(block).__name__}: not timm's plain pre-norm block")
    if reason := family.refusal(block):
        raise MethodError(reason)
    return family


def forward_steps(model: nn.Module) -> list[Step]:
    """The forward pass of a timm model, with a method or without, as steps in a row.

    Images (B, 3, H, W) go into the first, logits (B, classes) come out of the last. A model of no
    known family is one step.
    """
    family = family_of(model)
    return family.steps(model) if family else [whole_step(model)]
