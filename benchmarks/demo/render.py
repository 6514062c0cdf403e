"""Draws pictures of textured shapes: the demo backbones' pretraining images.

Every picture is one object (a shape filled with a texture in a colour) at a random place, size and
angle, before a random background. A class is one (shape, texture, colour). All maps are arrays with
the image index first; lengths are in pixels, angles in radians and colours are RGB in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

Array = np.ndarray
Outline = Callable[[Array, Array], Array]  # x, y in units of the size -> signed distance

IMAGE_SIZE = 32
SUPERSAMPLING = 2
TAU = 2 * np.pi

COLOURS = {"red": 0.0, "yellow": 0.14, "green": 0.36, "blue": 0.61}  # name -> hue in turns
TEXTURES = ("plain", "stripes", "checker", "dots", "rings", "gradient", "speckle", "grid")


def _disc(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - 0.9


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.sqrt(x * x + y * y) - 0.72) - 0.25


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(0.866 * np.abs(x) + 0.5 * y, -y) - 0.5


def _cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 1.0, 0.32), _box(x, y, 0.32, 1.0))


def _ell(x: Array, y: Array) -> Array:
    return np.minimum(_box(x + 0.5, y, 0.32, 0.9), _box(x, y - 0.6, 0.82, 0.3))


def _crescent(x: Array, y: Array) -> Array:
    bite = np.sqrt((x - 0.55) ** 2 + y * y) - 0.72
    return np.maximum(np.sqrt(x * x + y * y) - 1.0, -bite)


def _half_disc(x: Array, y: Array) -> Array:
    return np.maximum(np.sqrt(x * x + (y + 0.4) ** 2) - 1.05, -(y + 0.4))


def _star(x: Array, y: Array) -> Array:
    sector = TAU / 5
    angle = np.abs(np.mod(np.arctan2(y, x), sector) - sector / 2)
    radius = np.sqrt(x * x + y * y)
    # Straight edge from the tip (radius 1.1, angle 36 deg) to the notch (radius 0.45, angle 0).
    return 0.6 * (radius * (np.cos(angle) * 0.645 + np.sin(angle) * -0.44) / 0.645 - 0.45)


# Signed distance (negative inside) to each shape of unit size; exact near the edge is enough.
SHAPES: dict[str, Outline] = {
    "disc": _disc,
    "ring": _ring,
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    "bar": lambda x, y: _box(x, y, 1.1, 0.42),
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "ell": _ell,
    "half_disc": _half_disc,
}

CLASSES = tuple(product(SHAPES, TEXTURES, COLOURS))


def uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Array:
    """Uniform float32 numbers in [low, high)."""
    return rng.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def hsv_to_rgb(hue: Array, saturation: Array, value: Array) -> Array:
    """(n,) hue in turns, saturation and value in [0, 1] -> (n, 3) RGB in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0], np.float32) + 6 * hue[:, None]) % 6
    wedge = np.clip(np.minimum(k, 4 - k), 0, 1)
    return (value[:, None] * (1 - saturation[:, None] * wedge)).astype(np.float32)


def local_frame(
    centre: Array, angle: Array, radius: Array, scale: int = SUPERSAMPLING
) -> tuple[Array, Array]:
    """Coordinates of every (sub)pixel in the frame of an object.

    centre: (n, 2) x, y in pixels; angle, radius: (n,). Returns two (n, S, S) maps, S = scale x
    IMAGE_SIZE, in units of the radius.
    """
    axis = ((np.arange(IMAGE_SIZE * scale, dtype=np.float32) + 0.5) / scale)[None, :]
    dx = (axis - centre[:, :1]) / radius[:, None]
    dy = (axis - centre[:, 1:]) / radius[:, None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x = (dx * cos)[:, None, :] + (dy * sin)[:, :, None]
    y = (dy * cos)[:, :, None] - (dx * sin)[:, None, :]
    return x, y


def coverage(distance: Array, radius: Array, scale: int = SUPERSAMPLING) -> Array:
    """Share of every (sub)pixel inside a shape, from its distance in units of radius (n,)."""
    return np.clip(0.5 - distance * (scale * radius)[:, None, None], 0, 1)


def pool(fine: Array) -> Array:
    """Mean over the subpixels of each pixel: (n, 2s, 2s) -> (n, s, s)."""
    rows = fine[:, 0::2] + fine[:, 1::2]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) * np.float32(0.25)


def _sharpen(wave: Array) -> Array:
    return np.clip(0.5 + 1.5 * wave, 0, 1)


def texture(name: str, p: Array, q: Array, speckle: Array) -> Array:
    """Mixing weight in [0, 1] of the second colour; p, q: (n, S, S) phases in radians."""
    if name == "plain":
        return np.zeros_like(p)
    if name == "stripes":
        return _sharpen(np.sin(p))
    if name == "checker":
        return _sharpen(2 * np.sin(0.7 * p) * np.sin(0.7 * q))
    if name == "dots":
        return _sharpen(np.cos(p) + np.cos(q) - 0.7)
    if name == "rings":
        return _sharpen(np.sin(np.sqrt(p * p + q * q)))
    if name == "gradient":
        return np.clip(0.5 + 0.09 * p, 0, 1)
    if name == "speckle":
        return np.repeat(np.repeat(speckle, 2, axis=1), 2, axis=2)
    if name == "grid":
        return _sharpen(np.maximum(np.cos(p), np.cos(q)) * 2 - 1.6)
    raise ValueError(f"unknown texture {name!r}")


def smooth_noise(rng: np.random.Generator, n: int, cells: int) -> Array:
    """(n, 32, 32) value noise in [0, 1]: a random (cells x cells) grid, bilinearly enlarged."""
    at = np.linspace(0, cells - 1, IMAGE_SIZE, dtype=np.float32)[:, None]
    weights = np.clip(1 - np.abs(at - np.arange(cells, dtype=np.float32)), 0, 1)
    return weights @ rng.random((n, cells, cells), dtype=np.float32) @ weights.T


def random_colours(rng: np.random.Generator, n: int, max_saturation: float = 1.0) -> Array:
    """(n, 3) colours of any hue."""
    return hsv_to_rgb(
        uniform(rng, 0, 1, n), uniform(rng, 0, max_saturation, n), uniform(rng, 0.1, 1, n)
    )


def backgrounds(rng: np.random.Generator, n: int, max_saturation: float = 0.6) -> Array:
    """(n, 32, 32, 3) backgrounds: flat, gradient, coarse noise, or clutter of small discs."""
    kind = rng.integers(0, 4, n)
    first, second = (random_colours(rng, n, max_saturation) for _ in range(2))
    ramp, _ = local_frame(
        np.full((n, 2), IMAGE_SIZE / 2, np.float32),
        uniform(rng, 0, TAU, n),
        np.full(n, IMAGE_SIZE, np.float32),
        scale=1,
    )
    noise = smooth_noise(rng, n, 9)
    mix = np.where((kind == 1)[:, None, None], np.clip(ramp + 0.5, 0, 1), noise)
    mix *= (kind > 0)[:, None, None]
    mix[kind == 3] *= 0.3
    canvas = first[:, None, None] + mix[..., None] * (second - first)[:, None, None]
    cluttered = np.flatnonzero(kind == 3)
    for _ in range(4):
        m = len(cluttered)
        centre, radius = uniform(rng, 0, IMAGE_SIZE, m, 2), uniform(rng, 1, 2.5, m)
        x, y = local_frame(centre, uniform(rng, 0, TAU, m), radius, scale=1)
        cover = coverage(np.sqrt(x * x + y * y) - 1, radius, scale=1)[..., None]
        speck = random_colours(rng, m)[:, None, None]
        canvas[cluttered] += cover * (speck - canvas[cluttered])
    return canvas


def to_pixels(rng: np.random.Generator, canvas: Array, noise: float = 0.03) -> Array:
    """Exposure, contrast and sensor noise, then 8 bits: (n, 32, 32, 3) float -> uint8."""
    n = len(canvas)
    contrast = uniform(rng, 0.75, 1.1, n)[:, None, None, None]
    offset = uniform(rng, -0.08, 0.08, n)[:, None, None, None]
    level = uniform(rng, 0, noise, n)[:, None, None]
    grain = rng.standard_normal(canvas.shape[:3], dtype=np.float32) * level
    out = (canvas - 0.5) * contrast + (0.5 + offset)
    out += grain[..., None]
    return (np.clip(out, 0, 1) * 255 + 0.5).astype(np.uint8)


def object_colours(rng: np.random.Generator, hue: Array) -> tuple[Array, Array]:
    """Two (n, 3) colours of an object: its hue (n,), and the light or dark grey of its texture."""
    n = len(hue)
    main = hsv_to_rgb(
        (hue + uniform(rng, -0.04, 0.04, n)) % 1, uniform(rng, 0.6, 1, n), uniform(rng, 0.6, 1, n)
    )
    light = np.where(rng.random(n) < 0.5, uniform(rng, 0, 0.25, n), uniform(rng, 0.8, 1, n))
    return main, np.repeat(light[:, None], 3, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Objects:
    """One object per image: how n of them look, and where they are.

    shapes, textures: (n,) indices into the outlines and TEXTURES; colours: two (n, 3) arrays;
    centre: (n, 2), angle, radius: (n,) in pixels and radians.
    """

    shapes: Array
    textures: Array
    colours: tuple[Array, Array]
    centre: Array
    angle: Array
    radius: Array


def draw_objects(
    rng: np.random.Generator,
    canvas: Array,
    objects: Objects,
    outlines: Sequence[Outline] = tuple(SHAPES.values()),
) -> None:
    """Paints one textured object into each image of canvas (n, 32, 32, 3), in place."""
    n = len(canvas)
    shapes, textures, colours = objects.shapes, objects.textures, objects.colours
    centre, angle, radius = objects.centre, objects.angle, objects.radius
    period = uniform(rng, 3.0, 5.0, n)
    tilt, phase = uniform(rng, 0, TAU, n), uniform(rng, -2, 2, n, 2)
    speckle = (rng.random((n, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32) < 0.4).astype(np.float32)
    cover: Array = np.empty((n, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    blend = np.empty_like(cover)
    # One group per (shape, texture) would be too small to be fast: shapes first, textures after.
    side = IMAGE_SIZE * SUPERSAMPLING
    fine: Array = np.empty((n, side, side), np.float32)
    for shape in np.unique(shapes):
        rows = np.flatnonzero(shapes == shape)
        x, y = local_frame(centre[rows], angle[rows], radius[rows])
        fine[rows] = coverage(outlines[shape](x, y), radius[rows])
    for index in np.unique(textures):
        rows = np.flatnonzero(textures == index)
        p, q = local_frame(centre[rows], tilt[rows], period[rows] / TAU)
        concentric = TEXTURES[index] == "rings"
        shift = np.zeros((len(rows), 2), np.float32) if concentric else phase[rows]
        p += shift[:, :1, None]
        q += shift[:, 1:, None]
        inside = fine[rows]
        cover[rows] = pool(inside)
        blend[rows] = pool(inside * texture(TEXTURES[index], p, q, speckle[rows]))
    # Pooling before colouring is exact, because mixing is linear, and takes a third of the work.
    canvas *= (1 - cover)[..., None]
    canvas += (cover - blend)[..., None] * colours[0][:, None, None]
    canvas += blend[..., None] * colours[1][:, None, None]


def render(rng: np.random.Generator, labels: Array) -> Array:
    """Draws one image for each class label: (n,) integers in [0, len(CLASSES)) -> (n, 32, 32, 3).

    The same generator state and labels give the same pixels, uint8.
    """
    out: Array = np.empty((len(labels), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    hues = np.array(list(COLOURS.values()), np.float32)
    for start in range(0, len(labels), 256):  # chunks stay in the processor's cache
        part = np.asarray(labels[start : start + 256])
        n = len(part)
        shapes, rest = np.divmod(part, len(TEXTURES) * len(COLOURS))
        textures, colours = np.divmod(rest, len(COLOURS))
        canvas = backgrounds(rng, n)
        radius = uniform(rng, 7, 12, n)
        reach = np.clip(IMAGE_SIZE / 2 - 0.85 * radius, 0, None)[:, None]
        centre = IMAGE_SIZE / 2 + uniform(rng, -1, 1, n, 2) * reach
        seen = object_colours(rng, hues[colours])
        angle = uniform(rng, 0, TAU, n)
        draw_objects(rng, canvas, Objects(shapes, textures, seen, centre, angle, radius))
        out[start : start + n] = to_pixels(rng, canvas)
    return out
