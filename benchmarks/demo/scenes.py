"""Draws the pictures of the six demo tasks.

Each scene takes a generator and (n,) integer labels and returns (n, 32, 32, 3) uint8 pictures.
Lengths are in pixels, angles in radians and colours are RGB in [0, 1], as in `render`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .render import (
    IMAGE_SIZE,
    SHAPES,
    TAU,
    TEXTURES,
    Array,
    Objects,
    Outline,
    coverage,
    draw_objects,
    hsv_to_rgb,
    local_frame,
    random_colours,
    smooth_noise,
    to_pixels,
    uniform,
)

# 1797 scans of 8x8 pixels in 0..16, uint8, with their labels: the test part of the UCI ML data
# set "Optical recognition of handwritten digits" (E. Alpaydin, C. Kaynak), copied from
# scikit-learn (BSD licence).
DIGITS_FILE = Path(__file__).parent / "digits.npz"
CENTRE = IMAGE_SIZE / 2


def _turned_pixels(rng: np.random.Generator, n: int, period: Array) -> tuple[Array, Array]:
    """Phases in radians of two orthogonal waves of the given period (n,), turned and shifted."""
    at = uniform(rng, 0, IMAGE_SIZE, n, 2)
    return local_frame(at, uniform(rng, 0, TAU, n), period / TAU, scale=1)


def _mix(first: Array, second: Array, weight: Array) -> Array:
    """Blends colours (n, 3), or canvases, by maps (n, 32, 32) in [0, 1]."""
    first, second = (c[:, None, None] if c.ndim == 2 else c for c in (first, second))
    return first + weight[..., None] * (second - first)


def _soft(x: Array, slope: float = 1.5) -> Array:
    return np.clip(0.5 + slope * x, 0, 1)


def _tones(
    rng: np.random.Generator,
    n: int,
    hue: tuple[float, float],
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Array:
    """(n, 3) colours with hue, saturation and value uniform in the given ranges."""
    return hsv_to_rgb(*(uniform(rng, low, high, n) for low, high in (hue, saturation, value)))


def digit_order() -> Array:
    """(1797,) indices of the scanned digits in a fixed random order, to split them by."""
    with np.load(DIGITS_FILE, allow_pickle=False) as file:
        return np.random.default_rng(0).permutation(len(file["labels"]))


def digits(rng: np.random.Generator, labels: Array, pool: Array) -> Array:
    """Light scanned digits, a little moved, enlarged and slanted, on a dim uneven ground.

    pool: the indices into the scans that may be used; labels must all occur among them.
    """
    with np.load(DIGITS_FILE, allow_pickle=False) as file:
        scans, names = file["images"].astype(np.float32) / 16, file["labels"]
    n = len(labels)
    chosen = np.array([rng.choice(pool[names[pool] == label]) for label in labels])
    half = uniform(rng, 11, 14, n)
    at = CENTRE + uniform(rng, -2, 2, n, 2)
    x, y = local_frame(at, uniform(rng, -0.15, 0.15, n), half, scale=1)
    # Scan coordinates with a border of one empty pixel, read off bilinearly.
    padded = np.pad(scans[chosen], ((0, 0), (1, 1), (1, 1)))
    column, row = (np.clip(4.5 + 4 * axis, 0, 8.999) for axis in (x, y))
    left, top = column.astype(np.int64), row.astype(np.int64)
    image = np.arange(n)[:, None, None]
    right, bottom = column - left, row - top
    upper = padded[image, top, left] * (1 - right) + padded[image, top, left + 1] * right
    lower = padded[image, top + 1, left] * (1 - right) + padded[image, top + 1, left + 1] * right
    ink = upper * (1 - bottom) + lower * bottom
    dim, dimmer = (_tones(rng, n, (0, 1), (0, 0.6), (0, 0.45)) for _ in range(2))
    ground = _mix(dim, dimmer, 0.6 * smooth_noise(rng, n, 5))
    light = _tones(rng, n, (0, 1), (0, 0.6), (0.65, 1))
    return to_pixels(rng, _mix(ground, light, _soft(ink - 0.4)), noise=0.06)


def _waves(p: Array, q: Array, noise: Array) -> Array:
    return np.sin(p + 1.5 * np.sin(0.5 * q))


def _zigzag(p: Array, q: Array, noise: Array) -> Array:
    return np.sin(p + 1.5 * np.arcsin(np.sin(0.5 * q)))


def _bricks(p: Array, q: Array, noise: Array) -> Array:
    course = np.floor(q / TAU) % 2
    return np.maximum(np.cos(q), np.cos(0.5 * p + np.pi * course) * 1.1) * 2 - 1.4


def _lattice(p: Array, q: Array, noise: Array) -> Array:
    return np.cos(p) + np.cos(0.5 * p + 0.866 * q) + np.cos(0.5 * p - 0.866 * q) - 0.4


def _barcode(p: Array, q: Array, noise: Array) -> Array:
    return np.sin(p) + np.sin(1.618 * p + 1) + np.sin(0.47 * p)


def _weave(p: Array, q: Array, noise: Array) -> Array:
    return np.where(np.sin(0.5 * p) * np.sin(0.5 * q) > 0, np.sin(1.5 * p), np.sin(1.5 * q))


def _marble(p: Array, q: Array, noise: Array) -> Array:
    return np.sin(p + 9 * noise)


def _blotches(p: Array, q: Array, noise: Array) -> Array:
    return 4 * (noise - 0.5)


FAMILIES = (_waves, _zigzag, _bricks, _lattice, _barcode, _weave, _marble, _blotches)


def textures(rng: np.random.Generator, labels: Array) -> Array:
    """A whole picture of one texture family, at any scale, angle and pair of colours."""
    n = len(labels)
    p, q = _turned_pixels(rng, n, uniform(rng, 4, 8, n))
    coarse = rng.random(n)[:, None, None] < 0.5
    noise = np.where(coarse, smooth_noise(rng, n, 7), smooth_noise(rng, n, 11))
    weight = np.empty_like(p)
    for index, family in enumerate(FAMILIES):
        rows = labels == index
        weight[rows] = _soft(family(p[rows], q[rows], noise[rows]), 1.0)
    canvas = _mix(random_colours(rng, n), random_colours(rng, n), weight)
    shade = uniform(rng, 0.2, 0.6, n)[:, None, None] * (smooth_noise(rng, n, 4) - 0.5)
    return to_pixels(rng, canvas + shade[..., None], noise=0.12)


def cells(rng: np.random.Generator, labels: Array) -> Array:
    """Stained tissue: a higher grade has larger, denser and less regular nuclei.

    The three vary around the grade independently, so that only all of them together tell it.
    """
    n = len(labels)
    stroma = _tones(rng, n, (0.84, 0.95), (0.1, 0.35), (0.75, 1.0))
    fibre = _tones(rng, n, (0.88, 0.98), (0.3, 0.6), (0.6, 0.9))
    p, _ = _turned_pixels(rng, n, uniform(rng, 5, 14, n))
    canvas = _mix(stroma, fibre, 0.4 * _soft(np.sin(p + 6 * smooth_noise(rng, n, 6)), 0.5))
    size, density, wobble = (labels + rng.normal(0, 0.55, n) for _ in range(3))
    mean_radius = np.clip(1.7 + 0.33 * size, 1.2, 4).astype(np.float32)
    count = np.clip(np.rint(5 + 1.6 * density), 2, 16)
    roughness = np.clip(0.03 + 0.07 * wobble, 0, 0.45).astype(np.float32)
    for k in range(int(count.max())):
        rows = np.flatnonzero(count > k)
        m = len(rows)
        radius = mean_radius[rows] * np.exp(
            rng.standard_normal(m, dtype=np.float32) * (0.08 + 0.6 * roughness[rows])
        )
        x, y = local_frame(
            uniform(rng, 0, IMAGE_SIZE, m, 2), uniform(rng, 0, TAU, m), radius, scale=1
        )
        angle, phase = np.arctan2(y, x), uniform(rng, 0, TAU, m, 2)[:, :, None, None]
        edge = 1 + roughness[rows][:, None, None] * (
            np.sin(2 * angle + phase[:, 0]) + 0.7 * np.sin(3 * angle + phase[:, 1])
        )
        cover = coverage(np.sqrt(x * x + 1.3 * y * y) - edge, radius, scale=1)
        nucleus = _tones(rng, m, (0.68, 0.82), (0.4, 0.8), (0.25, 0.6))
        canvas[rows] = _mix(canvas[rows], nucleus, 0.9 * cover)
    return to_pixels(rng, canvas, noise=0.08)


def _ground(rng: np.random.Generator, n: int) -> Array:
    """Soil or grass in two close tones."""
    base = _tones(rng, n, (0.08, 0.36), (0.12, 0.5), (0.3, 0.75))
    other = np.clip(base * uniform(rng, 0.6, 1.3, n)[:, None], 0, 1)
    return _mix(base, other, smooth_noise(rng, n, 8))


def _band(rng: np.random.Generator, n: int, bend: float, width: tuple[float, float]) -> Array:
    """Cover of a band across the picture that bends by up to `bend` pixels."""
    at = CENTRE + uniform(rng, -7, 7, n, 2)
    x, y = local_frame(at, uniform(rng, 0, TAU, n), np.ones(n, np.float32), scale=1)
    rate = uniform(rng, 0.12, 0.22, n)[:, None, None]
    x = x + bend * uniform(rng, 0.6, 1, n)[:, None, None] * np.sin(rate * y)
    return _soft(uniform(rng, *width, n)[:, None, None] - np.abs(x), 1.0)


def _vegetation(rng: np.random.Generator, n: int) -> Array:
    return _tones(rng, n, (0.1, 0.42), (0.2, 0.6), (0.12, 0.6))


def _water(rng: np.random.Generator, n: int) -> Array:
    return _tones(rng, n, (0.3, 0.65), (0.15, 0.55), (0.15, 0.6))


def _meadow(rng: np.random.Generator, n: int) -> Array:
    return _mix(_ground(rng, n), _vegetation(rng, n), 0.5 * smooth_noise(rng, n, 5))


def _crops(rng: np.random.Generator, n: int) -> Array:
    p, q = _turned_pixels(rng, n, uniform(rng, 3, 6, n))
    rows = np.where(q > 0, np.sin(p), np.sin(q * 0.8)) * uniform(rng, 0.15, 0.6, n)[:, None, None]
    return _mix(_ground(rng, n), _vegetation(rng, n), _soft(rows, 1.0))


def _orchard(rng: np.random.Generator, n: int) -> Array:
    p, q = _turned_pixels(rng, n, uniform(rng, 4.5, 7, n))
    return _mix(_ground(rng, n), _vegetation(rng, n), _soft(np.cos(p) + np.cos(q) - 0.5, 0.6))


def _forest(rng: np.random.Generator, n: int) -> Array:
    crowns = _soft(smooth_noise(rng, n, 14) - 0.45, 1.6)
    return _mix(_ground(rng, n), _vegetation(rng, n), crowns)


def _river(rng: np.random.Generator, n: int) -> Array:
    return _mix(_meadow(rng, n), _water(rng, n), _band(rng, n, 5, (1.2, 3)))


def _road(rng: np.random.Generator, n: int) -> Array:
    asphalt = _tones(rng, n, (0, 1), (0, 0.15), (0.2, 0.7))
    return _mix(_meadow(rng, n), asphalt, _band(rng, n, 0.7, (1, 2.2)))


def _houses(rng: np.random.Generator, n: int) -> Array:
    canvas = _ground(rng, n)
    turn = uniform(rng, 0, TAU, n)
    for _ in range(5):
        x, y = local_frame(
            uniform(rng, 2, IMAGE_SIZE - 2, n, 2), turn, np.ones(n, np.float32), scale=1
        )
        half = uniform(rng, 1.5, 3.5, n, 2)[:, :, None, None]
        outside = np.maximum(np.abs(x) - half[:, 0], np.abs(y) - half[:, 1])
        canvas = _mix(canvas, _tones(rng, n, (0, 0.1), (0, 0.5), (0.3, 0.9)), _soft(-outside, 1))
    return canvas


def _coast(rng: np.random.Generator, n: int) -> Array:
    x, _ = local_frame(
        np.full((n, 2), CENTRE, np.float32), uniform(rng, 0, TAU, n), np.ones(n, np.float32), 1
    )
    shore = x + 14 * (smooth_noise(rng, n, 6) - 0.5) + uniform(rng, -6, 6, n)[:, None, None]
    return _mix(_meadow(rng, n), _water(rng, n), _soft(shore, 0.5))


COVERS: tuple[Callable[[np.random.Generator, int], Array], ...] = (
    _meadow, _crops, _orchard, _forest, _river, _road, _houses, _coast,
)  # fmt: skip


def terrain(rng: np.random.Generator, labels: Array) -> Array:
    """Land cover from above; the covers share their colours, so that only patterns differ."""
    canvas: Array = np.empty((len(labels), IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    for index, cover in enumerate(COVERS):
        rows = np.flatnonzero(labels == index)
        canvas[rows] = cover(rng, len(rows))
    return to_pixels(rng, canvas, noise=0.1)


def _draw_sprites(
    rng: np.random.Generator,
    outline: Array,
    centre: Array,
    angle: Array,
    radius: Array,
    outlines: Sequence[Outline] = tuple(SHAPES.values()),
) -> Array:
    """Pictures of one bright plain object each on a dim plain ground, as in dSprites.

    The ground is plain because 800 pictures must be enough to learn the geometry.
    """
    n = len(centre)
    ground = _tones(rng, n, (0, 1), (0, 0.4), (0, 0.45))
    canvas = np.broadcast_to(ground[:, None, None], (n, IMAGE_SIZE, IMAGE_SIZE, 3)).copy()
    bright = _tones(rng, n, (0, 1), (0, 0.8), (0.75, 1))
    plain = np.full(n, TEXTURES.index("plain"))
    objects = Objects(outline, plain, (bright, bright), centre, angle, radius)
    draw_objects(rng, canvas, objects, outlines)
    return to_pixels(rng, canvas)


def sprite_loc(rng: np.random.Generator, labels: Array, bins: int = 6) -> Array:
    """An object of any shape and turn; the label is the bin of its horizontal position."""
    n = len(labels)
    margin = 4.0
    x = margin + (IMAGE_SIZE - 2 * margin) / bins * (labels + uniform(rng, 0, 1, n))
    y = uniform(rng, margin, IMAGE_SIZE - margin, n)
    return _draw_sprites(
        rng,
        rng.integers(0, len(SHAPES), n),
        np.stack([x, y], 1).astype(np.float32),
        angle=uniform(rng, 0, TAU, n),
        radius=uniform(rng, 5, 7, n),
    )


def _arrow(x: Array, y: Array) -> Array:
    """A head that points to +x, on a shaft."""
    head = np.maximum(0.64 * x + 0.77 * np.abs(y) - 0.6, -x)
    shaft = np.maximum(np.abs(x + 0.45) - 0.55, np.abs(y) - 0.26)
    return np.minimum(head, shaft)


def sprite_ori(rng: np.random.Generator, labels: Array, bins: int = 8) -> Array:
    """An arrow near the centre; the label is the bin of its direction.

    A gap of four tenths of a bin between the bins leaves no picture on a border.
    """
    n = len(labels)
    radius = uniform(rng, 10, 13, n)
    reach = 0.6 * (CENTRE - 0.85 * radius)[:, None]
    return _draw_sprites(
        rng,
        np.zeros(n, np.int64),
        CENTRE + uniform(rng, -1, 1, n, 2) * reach,
        angle=(TAU / bins * (labels + uniform(rng, -0.3, 0.3, n))).astype(np.float32),
        radius=radius,
        outlines=(_arrow,),
    )
