"""The frozen first part of a model, computed once for every image and not in every step.

Linear probing, MLP-k and Partial-k train only their last layers, so the layers below give the same
features in every epoch. These are kept on the device, for both mirror images where the recipe
flips, and are drawn in the same batches as the plain path draws.
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
            self.features = self._compute()
        device = self.feed.device
        return self.features[upload(side, device), upload(batch, device)]

    @torch.no_grad()
    def _compute(self) -> Tensor:
        """The features of all images, always in the same parts: a resumed run gets equal bits."""
        number, features = len(self.feed.images), None
        for side, mirrored in enumerate(self.sides):
            for part in torch.arange(number).split(self.size):
                flips = torch.full((len(part),), mirrored)
                with self.precision:
                    computed = self.first(self.feed.whole(part, flips))
                if features is None:
                    shape = (len(self.sides), number, *computed.shape[1:])
                    features = computed.new_empty(shape)
                features[side, part.to(computed.device)] = computed
        assert features is not None  # there are images
        return features


def cut(
    model: nn.Module, feed: Feed, size: int, precision: AbstractContextManager
) -> FrozenFeed | None:
    """Cut the model above its longest frozen part; None without a frozen block or without room.

    The caller must use it only without crops and without mixing of a batch.

    Args:
        size: images per forward pass.
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
            return None  # the method changes the model's forward pass
    needed = features.nbytes * len(feed.images) * len(frozen.sides)
    return frozen if needed <= room(feed.device) else None


def _chain(steps: list[Step]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step.run(x)
        return x

    return run
