"""From decoded images to what the model sees: crops, flips, normalisation, mixing. On the device.

All draws come from the run's seed, so a run sees the same pixels wherever the images are kept.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from .config import Recipe
from .data import Images
from .devices import room, upload


@dataclass(frozen=True)
class Pixels:
    """uint8 images -> what the model sees: flips, then (x / 255 - mean) / std.

    crop: what training cuts out: size x size at a random place ("random"), or a box of 8 to 100 %
    of the area and an aspect of 3/4 to 4/3, resized to size x size ("rrc", as in timm and
    torchvision; with interpolation "random" each box draws bicubic or bilinear).
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    hflip: bool = False
    crop: str = "none"
    size: int = 0  # of the model's input; needed for crops
    interpolation: str = "bicubic"  # rrc only

    def __call__(self, images: Tensor, flips: Tensor | None = None) -> Tensor:
        """images: uint8 N x 3 x H x W -> float32, same shape; flips: bool N, which to mirror."""
        if flips is not None:
            flips = upload(flips, images.device).view(-1, 1, 1, 1)
            images = torch.where(flips, images.flip(-1), images)
        mean, std = upload(torch.tensor([self.mean, self.std]), images.device).view(2, 1, 3, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)

    def flips(self, number: int, generator: torch.Generator) -> Tensor | None:
        """Draw which of `number` images of a training batch to mirror; None: this never flips."""
        return torch.rand(number, generator=generator) < 0.5 if self.hflip else None

    def cut(
        self, images: Sequence[Tensor], generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Images, uint8 3 x H x W of any size each -> uint8 N x 3 x size x size on the device."""
        size, patches = self.size, []
        for image in images:
            height, width = image.shape[1:]
            if self.crop == "random":
                top, left = (
                    _below(height - size + 1, generator),
                    _below(width - size + 1, generator),
                )
                patches.append(image[:, top : top + size, left : left + size])
            else:
                top, left, h, w = random_box(height, width, generator)
                filters = self.interpolation
                if filters == "random":
                    filters = ("bilinear", "bicubic")[_below(2, generator)]
                patch = image[:, top : top + h, left : left + w].to(device)
                patches.append(resized(patch, size, filters))
        return torch.stack(patches).to(device)


class Feed:
    """A training set: gives the pixels of a batch for the numbers of its images.

    The whole set is held on the device if all images have one size and there is room (150 MB for
    1000 images of 224 x 224); otherwise each batch is read from the memory map.
    """

    def __init__(self, images: Images | np.ndarray, pixels: Pixels, device: torch.device):
        self.images, self.pixels, self.device = images, pixels, device
        held = None not in images.shape and math.prod(images.shape) <= room(device)
        self.held = to_device(images, device) if held else None

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """batch: numbers of images -> float32 N x 3 x size x size on the device."""
        if self.pixels.crop == "none":
            return self.whole(batch, self.pixels.flips(len(batch), generator))
        x = self.pixels.cut([self._one(i) for i in batch.tolist()], generator, self.device)
        return self.pixels(x, self.pixels.flips(len(batch), generator))

    def whole(self, batch: Tensor, flips: Tensor | None) -> Tensor:
        """The same without crops, with the given flips."""
        if self.held is None:
            x = to_device(self.images[batch.numpy()], self.device)
        else:
            x = self.held[upload(batch, self.device)]
        return self.pixels(x, flips)

    def _one(self, number: int) -> Tensor:
        if self.held is not None:
            return self.held[number]
        return torch.from_numpy(self.images[number].copy()).permute(2, 0, 1)


class Mixing:
    """timm's mixup, cutmix and then random erasing on a normalised batch; nothing without them.

    The order is that of timm's prefetching loader. With the recipe's mix_batch (even), so many
    images share a draw of mixup or cutmix, as on each of several GPUs.

    They draw from the global generators of `random` and NumPy, which each epoch seeds anew.
    """

    def __init__(self, recipe: Recipe, classes: int, seed: int, device: torch.device):
        self.seed, self.erase, self.mix, self.share = seed, None, None, recipe.mix_batch
        if recipe.erasing:
            self.erase = RandomErasing(recipe.erasing, mode="pixel", device=device.type)
        if recipe.mixup or recipe.cutmix:
            self.mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=0.0, num_classes=classes)

    @property
    def on(self) -> bool:
        return bool(self.erase or self.mix)

    def start(self, epoch: int) -> None:
        if self.on:
            random.seed(self.seed * 1_000_003 + epoch)
            np.random.seed((self.seed * 1_000_003 + epoch) % 2**32)

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """float N x 3 x H x W and labels -> the same, or labels as N x C shares of the classes."""
        if self.mix:
            if len(x) % 2:  # timm mixes each image with its counterpart from the other end
                x, y = torch.cat([x, x[-1:]]), torch.cat([y, y[-1:]])
            size = self.share or len(x)
            mixed = [self.mix(*part) for part in zip(x.split(size), y.split(size), strict=True)]
            x, y = (torch.cat(parts) for parts in zip(*mixed, strict=True))
        if self.erase:
            x = self.erase(x)
        return x, y


def random_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of the box of a random resized crop."""
    for _ in range(10):
        area, aspect = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (0.08 + 0.92 * area)
        aspect = math.exp(math.log(3 / 4) + aspect * math.log(16 / 9))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = _below(height - h + 1, generator), _below(width - w + 1, generator)
            return top, left, h, w
    h, w = min(height, round(width / (3 / 4))), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def resized(image: Tensor, size: int, filters: str) -> Tensor:
    """uint8 3 x h x w -> 3 x size x size: Pillow's antialiased resize, bit for bit, on any device.

    Pillow works with weights of 22 binary digits and rounds between its two passes; float64 holds
    these sums exactly. It resizes along the rows first, as every Pillow did at the time of the
    papers; recent ones begin with the columns if an image is tall, and then differ by a few grey
    levels.
    """
    height, width = image.shape[1:]
    x = image.double()
    across, down = (weights(side, size, filters).to(image.device) for side in (width, height))
    for product in (lambda x: x @ across.T, lambda x: down @ x):
        x = (product(x) / 2**22 + 0.5).floor().clamp(0, 255)
    return x.to(torch.uint8)


@lru_cache(maxsize=4096)
def weights(before: int, after: int, filters: str) -> Tensor:
    """Pillow's resampling of one axis as a matrix, float64 after x before, in units of 2^-22."""
    scale = before / after
    spread = max(scale, 1.0)
    reach = {"bilinear": 1.0, "bicubic": 2.0}[filters] * spread
    centre = (np.arange(after)[:, None] + 0.5) * scale
    first = np.maximum(np.floor(centre - reach + 0.5), 0)
    last = np.minimum(np.floor(centre + reach + 0.5), before)
    at = np.arange(before)
    x = np.abs((at - centre + 0.5) * (1 / spread))
    if filters == "bilinear":
        matrix = np.maximum(1 - x, 0)
    else:  # the cubic with a = -1/2
        near = (1.5 * x - 2.5) * x * x + 1
        matrix = np.where(x < 1, near, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    matrix = np.where((at >= first) & (at < last), matrix, 0)
    matrix = matrix / matrix.sum(axis=1, keepdims=True) * 2**22
    return torch.from_numpy(np.trunc(matrix + np.copysign(0.5, matrix)))


def to_device(images: Images | np.ndarray, device: torch.device) -> Tensor:
    """uint8 N x H x W x 3 on disk -> uint8 N x 3 x H x W on the device."""
    return upload(torch.from_numpy(np.array(images)), device).permute(0, 3, 1, 2).contiguous()


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
