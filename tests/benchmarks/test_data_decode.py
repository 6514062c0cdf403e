"""Decoded pixels and their views are Pillow's and torchvision's, for every kind of file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import read

from rlrr_bench.benchmarks import data, tasks
from rlrr_bench.benchmarks.data import View

TASK = tasks.get("demo", "digits")


KINDS = {  # file name -> how a file of this kind is made from an RGB image
    "jpeg.jpg": lambda rgb: (rgb, {}),
    "jpeg444.jpg": lambda rgb: (rgb, {"quality": 95, "subsampling": 0}),
    "grey.jpg": lambda rgb: (rgb.convert("L"), {}),
    "cmyk.jpg": lambda rgb: (rgb.convert("CMYK"), {}),
    "turned.jpg": lambda rgb: (
        rgb,
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ),
    "grey.png": lambda rgb: (rgb.convert("L"), {}),
    "bits.png": lambda rgb: (rgb.convert("1"), {}),
    "palette.png": lambda rgb: (rgb.convert("P"), {}),
    "palette_clear.png": lambda rgb: (rgb.convert("P"), {"transparency": 3}),
    "alpha.png": lambda rgb: (Image.merge("RGBA", (*rgb.split(), rgb.split()[0])), {}),
    "grey_alpha.png": lambda rgb: (rgb.convert("LA"), {}),
    "deep.png": lambda rgb: (Image.fromarray(np.asarray(rgb)[..., 0].astype(np.uint16) * 3), {}),
    "animated.gif": lambda rgb: (rgb.convert("P"), {}),
}


def write_kinds(root: Path) -> data.Listing:
    """The trainval list of `digits` as one image of each kind, 77 x 30 pixels."""
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 77, 3), dtype=np.uint8))
    folder = root / "demo" / "digits"
    folder.mkdir(parents=True)
    for name, make in KINDS.items():
        image, options = make(rgb)
        image.save(folder / name, **options)
    lines = [f"{name} {i % 10}" for i, name in enumerate(KINDS)]
    (folder / "train800val200.txt").write_text("\n".join(lines))
    return read(root)


def test_pixels_are_pillows(tmp_path):
    """Bicubic to a square, aspect not kept, three channels, for every kind of file."""
    listing = write_kinds(tmp_path)
    split = data.open_split(tmp_path, TASK, "trainval", View(24), smoke=True)
    assert split.images.shape == (len(KINDS), 24, 24, 3) and split.images.dtype == np.uint8
    for path, image in zip(listing.paths, split.images, strict=True):
        with Image.open(path) as opened:
            expected = opened.convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
        assert np.array_equal(image, np.asarray(expected)), path.name
    assert split.labels.tolist() == listing.labels and split.variant == "jpg"


def test_what_pillow_does_with_odd_files(tmp_path):
    """The docstring of decode.py, spelled out: EXIF ignored, alpha dropped, 16 bits clipped."""
    listing = write_kinds(tmp_path)
    own = data.open_split(tmp_path, TASK, "trainval", View(24, "own"), smoke=True)
    seen = dict(zip(KINDS, own.images, strict=True))
    rgb = np.random.default_rng(1).integers(0, 256, (30, 77, 3), dtype=np.uint8)
    with Image.open(listing.paths[list(KINDS).index("turned.jpg")]) as turned:
        assert turned.getexif()[0x0112] == 6  # to be turned by 90 degrees
    assert np.array_equal(seen["turned.jpg"], seen["jpeg.jpg"])
    assert seen["turned.jpg"].shape == (30, 77, 3)
    assert np.array_equal(seen["alpha.png"], rgb)
    assert np.array_equal(seen["deep.png"][..., 0], np.minimum(rgb[..., 0].astype(int) * 3, 255))
    for name in ("grey.jpg", "grey.png", "bits.png", "grey_alpha.png", "deep.png"):
        assert (seen[name] == seen[name][..., :1]).all(), name
    inverse = 255 - np.asarray(Image.open(listing.paths[3])).astype(int)  # C, M, Y, K
    expected = (inverse[..., :3] * inverse[..., 3:] / 255).round()
    assert np.abs(seen["cmyk.jpg"] - expected).max() <= 1


@pytest.mark.parametrize("resize", ["squash", "squash256", "short256", "short248"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_views_are_torchvisions(tmp_path, resize, interpolation):
    """Resize to a square or by the shorter side, and the centre crop, as torchvision has them."""
    from torchvision.transforms import v2

    listing = write_kinds(tmp_path)
    mode = v2.InterpolationMode(interpolation)
    side = {"squash": (28, 28), "squash256": (32, 32), "short256": 32, "short248": 31}[resize]
    for centre in (False, True):
        view = View(28, resize, interpolation, centre)
        split = data.open_split(tmp_path, TASK, "trainval", view, smoke=True)
        change = v2.Compose([v2.Resize(side, mode)] + [v2.CenterCrop(28)] * centre)
        for path, image in zip(listing.paths, split.images, strict=True):
            with Image.open(path) as opened:
                assert np.array_equal(image, np.asarray(change(opened.convert("RGB"))))
