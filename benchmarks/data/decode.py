"""From an image file to pixels, as the papers' loaders do it: Pillow's `open(...).convert("RGB")`.

For files that are not plain RGB, Pillow does the following, and a test pins each: grey becomes
three equal channels; a palette is looked up; alpha is dropped, not blended; CMYK is converted
without a colour profile; 16-bit grey is clipped at 255, not divided by 256; a rotation noted in
EXIF is ignored. Pillow also resizes, with antialiasing.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

# what data sets use; Pillow would start Ghostscript for an EPS that is called .png
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Resize = Literal["squash", "squash256", "short256", "short248", "own"]


@dataclass(frozen=True)
class View:
    """How an image is seen: resized, and perhaps cut to the square in its centre.

    size: the model's input. resize: "squash" to size x size, the aspect not kept; "squash256" to a
    square of 256/224 of it; "short256" and "short248" the shorter side to 256/224 and 248/224 of
    it, the aspect kept; "own": not at all. centre: cut out the size x size in the middle.
    """

    size: int
    resize: Resize = "squash"
    interpolation: str = "bicubic"
    centre: bool = False

    @property
    def name(self) -> str:
        """Names the folder of the cache; two views with one name give the same pixels."""
        if self.resize == "own":
            return "own"
        words = [self.resize.rstrip("0123456789"), str(self.side), self.interpolation]
        return "-".join(words + [f"centre{self.size}"] * self.cuts)

    @property
    def side(self) -> int:
        """What the image, or its shorter side, is resized to."""
        digits = self.resize.lstrip("abcdefghijklmnopqrstuvwxyz")
        return round(self.size * int(digits) / 224) if digits else self.size

    @property
    def cuts(self) -> bool:
        return self.centre and self.resize != "squash"

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.resize == "own":
            return image
        if self.resize.startswith("squash"):
            wanted = (self.side, self.side)
        elif width <= height:
            wanted = (self.side, int(self.side * height / width))
        else:
            wanted = (int(self.side * width / height), self.side)
        image = image.resize(wanted, FILTERS[self.interpolation])
        if self.cuts:
            left, top = (round((side - self.size) / 2) for side in image.size)
            image = image.crop((left, top, left + self.size, top + self.size))
        return image


def decode(raw: bytes, view: View, planes: bool = False) -> np.ndarray:
    """An image file's bytes -> uint8 height x width x 3.

    Args:
        planes: the bytes are no file but three planes of 32 x 32 pixels (CIFAR's binary version).

    Raises:
        ValueError: the file is no image, or is truncated.
    """
    try:
        if planes:
            rgb = Image.fromarray(
                np.frombuffer(raw, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)
            )
        else:
            with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
                if image.mode == "F":
                    raise ValueError("its pixels are floating-point numbers, expected 8 or 16 bits")
                rgb = image.convert("RGB")
        return np.asarray(view(rgb))
    except Exception as error:  # Pillow's plugins raise nearly anything on broken files
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError) and "cannot identify image file" in reason:
            reason = f"none of {', '.join(FORMATS)}"
        raise ValueError(f"cannot be decoded: {reason}") from None
