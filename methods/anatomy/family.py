"""What a family of backbones tells of itself.

A new family is a new file beside vit.py and swin.py with a class derived from `Family`, and one
name in the table `FAMILIES` of anatomy.py. No family knows another.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from .slots import Layout
from .steps import Step


class Family(ABC):
    """One of timm's model types, seen from outside.

    Attributes:
        kind: what methods and recipes call the family.
        model_type: timm's class of the model.
        block_type: timm's class of its plain pre-norm block.
    """

    kind: str
    model_type: type[nn.Module]
    block_type: type[nn.Module]

    @abstractmethod
    def layout(self, model: nn.Module) -> Layout:
        """What is where in a model of the family."""

    @abstractmethod
    def steps(self, model: nn.Module) -> list[Step]:
        """The model's forward pass, with a method or without: images in, logits out."""

    @abstractmethod
    def attention_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        """What a block adds to x first, layer scale and drop path included."""

    @abstractmethod
    def mlp_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        """What a block adds to x second, layer scale and drop path included."""

    def refusal(self, block: nn.Module) -> str | None:
        """Why the branches of a plain block cannot be computed apart; None if they can."""
        return None
