"""The frozen first part of a model, computed once for every image and not once every step.

Linear probing, MLP-k and Partial-k train nothing below their last layers, so what is below gives
the same features in every epoch. They are kept on the device, of both mirror images where the
recipe flips, and come in the batches that the plain path would have drawn.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from ..methods.anatomy import Step, forward_steps
from .devices import room, upload
from .pixels import Feed


class FrozenFeed:
    """A `Feed` of features instead of pixels; `rest` is the part of the model that takes them."""

    def __init__(
        self, feed: Feed, steps: list[Step], cut: int, size: int, precision: AbstractContextManager
    ):
        self.feed, self.first, self.rest = feed, _chain(steps[:cut]), _chain(steps[cut:])
        self.size, self.precision = size, precision
        self.sides = (False, True) if feed.pixels.hflip else (False,)
        self.features: Tensor | None = None  # sides x images x those of one image

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """batch: numbers of images -> features of each, on the device."""
        flips = self.feed.pixels.flips(len(batch), generator)
        side = torch.zeros_like(batch) if flips is None else flips.long()
        if self.features is None:
            self._compute()
        device = self.feed.device
        return self.features[upload(side, device), upload(batch, device)]

    @torch.no_grad()
    def _compute(self) -> None:
        """Of all images, in the same parts wherever a run begins: a resumed one has equal bits."""
        number = len(self.feed.images)
        for side, mirrored in enumerate(self.sides):
            for part in torch.arange(number).split(self.size):
                with self.precision:
                    found = self.first(self.feed.whole(part, torch.full((len(part),), mirrored)))
                if self.features is None:
                    shape = (len(self.sides), number, *found.shape[1:])
                    self.features = found.new_empty(shape)
                self.features[side, part.to(found.device)] = found


def cut(
    model: nn.Module, feed: Feed, size: int, precision: AbstractContextManager
) -> FrozenFeed | None:
    """Cut the model above its longest part that is frozen; None without a frozen block or room.

    It needs whole images, that is, no crops, and no mixing of a batch, which the caller knows of.

    Args:
        size: images a forward pass.
        precision: the context in which the trainer computes.
    """
    steps = forward_steps(model)
    fixed = next((i for i, step in enumerate(steps) if not step.fixed), len(steps))
    if not any(step.block for step in steps[:fixed]):
        return None
    frozen = FrozenFeed(feed, steps, fixed, size, precision)
    image = feed.whole(torch.tensor([0]), None)
    model.eval()
    with torch.no_grad(), precision:
        features = frozen.first(image)
        if not torch.equal(frozen.rest(features), model(image)):
            return None  # a method that changes the model's own forward pass
    needed = features.nbytes * len(feed.images) * len(frozen.sides)
    return frozen if needed <= room(feed.device) else None


def _chain(steps: list[Step]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step.run(x)
        return x

    return run
