"""Where a method can attach to timm's models, by the usual names, and how it takes over a module.

All knowledge of timm's module names lives in this folder.

    slots.py       the parts of a backbone, the same in every family: Slot, Block, Merging, Layout
    steps.py       the forward pass as steps in a row
    family.py      what a family of backbones tells of itself
    vit.py         one file a family: what is where in it, its steps, the branches of its block
    swin.py
    anatomy.py     Anatomy and forward_steps, which pick the family by the model's type
    adapted.py     Adapted and AdaptedBlock, which a method's modules derive from
    dropping.py    stochastic depth

A file imports only from those above it, but for errors and timm; no family imports another.
"""

from ..errors import MethodError
from .adapted import Adapted, AdaptedBlock
from .anatomy import Anatomy, forward_steps
from .dropping import set_drop_path
from .slots import Block, Merging, Slot
from .steps import Step
from .vit import set_dropout

__all__ = [
    "Adapted",
    "AdaptedBlock",
    "Anatomy",
    "Block",
    "Merging",
    "MethodError",
    "Slot",
    "Step",
    "forward_steps",
    "set_drop_path",
    "set_dropout",
]
