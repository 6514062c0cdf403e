"""Weights files of vision transformers: what a file is, and what is in it.

A file's name says nothing reliable (``ViT-B_16.npz`` exists in three versions), so both the format
and the checkpoint are recognised by content. Three layouts of tensor names are known:

=======  ===========================================  =========================================
layout   written by                                   recognised by
=======  ===========================================  =========================================
npz      Google's JAX releases (original, AugReg)     ``Transformer/encoderblock_<i>/...``
swin     Microsoft's Swin releases, dict ``model``    ``layers.0.downsample...`` (timm: layer 1)
timm     timm, as .safetensors, .pth or .bin          every other ViT or Swin state dict
=======  ===========================================  =========================================

Within a layout the head tells the versions apart. ViT: a ``pre_logits`` layer, or an all-zero
21843-way head, is the original ImageNet-21k checkpoint; a 21843-way head with values in it is
AugReg; a 1000-way head was fitted on ImageNet-1k. Swin: 21841 ways is ImageNet-22k, 1000 ways
ImageNet-1k (whether by fine-tuning or from scratch cannot be seen). Nothing is ever unpickled.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..methods.errors import InputError
from .files import open_regular

ORIGINAL = "original ImageNet-21k"
AUGREG = "AugReg ImageNet-21k"
SWIN_22K = "ImageNet-22k"
FINE_TUNED = "fine-tuned on ImageNet-1k"
HEADLESS_VIT = "headless, cannot tell original from AugReg or fine-tuned"
HEADLESS_SWIN = "headless, cannot tell ImageNet-22k from fine-tuned"
HEADLESS = (HEADLESS_VIT, HEADLESS_SWIN)

_VIT_SIZES = {(192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H"}
_SWIN_SIZES: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "T",
    (96, (2, 2, 18, 2)): "S",
    (128, (2, 2, 18, 2)): "B",
    (192, (2, 2, 18, 2)): "L",
}
# What sits behind the features; never part of the backbone.
_HEAD = re.compile(r"(head|pre_logits)[./]")

Shape = tuple[int, ...]


class BackboneError(InputError):
    """A backbone that cannot be built as asked; one line: the file, what it is, what is wanted."""


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file is, from its tensor names and shapes."""

    path: Path
    format: str  # npz, safetensors or pth
    layout: str  # npz, swin or timm
    arch: str  # e.g. 'ViT-B/16'; see describe_shapes
    origin: str  # one of the constants above, or '<n>-way head'

    @property
    def description(self) -> str:
        prefix = "timm state dict of " if self.layout == "timm" else ""
        return f"{prefix}{self.arch} {self.origin} (.{self.format})"


def identify(path: str | Path) -> str:
    """What a file is by its content, e.g. 'ViT-B/16 original ImageNet-21k (.npz)'.

    For any other file: 'not a weights file', or in a few words why it cannot be read.
    """
    try:
        return inspect(path).description
    except BackboneError as error:
        return str(error).removeprefix(f"{path}: ")


def inspect(path: str | Path) -> WeightsFile:
    """Recognise a weights file without reading more of it than names, shapes and perhaps the head.

    Raises:
        BackboneError: the file is missing, corrupt, or no ViT or Swin checkpoint.
    """
    with _opened(path) as (fmt, shapes, get):
        layout, arch = describe_shapes(shapes)
        if not layout:
            raise BackboneError(f"{path}: no ViT or Swin weights ({len(shapes)} tensors, .{fmt})")
        names = ("head/kernel", "head.weight", "head.fc.weight")
        head = next((name for name in names if name in shapes), "")
        # A head is stored (in, classes) by JAX and (classes, in) by torch.
        ways = 0 if not head else shapes[head][-1 if layout == "npz" else 0]
        origin: str | None
        if arch.startswith("Swin"):
            origin = {0: HEADLESS_SWIN, 21841: SWIN_22K}.get(ways)
        elif any(name.startswith("pre_logits") for name in shapes) and ways in (0, 21843):
            origin = ORIGINAL
        elif ways == 21843:
            origin = AUGREG if get(head).any() else ORIGINAL
        else:
            origin = HEADLESS_VIT if ways == 0 else None
        origin = origin or (FINE_TUNED if ways == 1000 else f"{ways}-way head")
    return WeightsFile(Path(path), fmt, layout, arch, origin)


def tensors_of(file: WeightsFile) -> dict[str, Tensor]:
    """The tensors of a file under its own names, without classification head and pre_logits.

    Tensors of a .pth may be mapped from the file: copy them, do not keep them.

    Raises:
        BackboneError: the file is corrupt.
    """
    with _opened(file.path) as (_, shapes, get):
        return {name: get(name) for name in shapes if not _HEAD.match(name)}


def describe_shapes(shapes: dict[str, Shape]) -> tuple[str, str]:
    """Layout and architecture behind tensor names and shapes; ('', '') where it is neither family.

    The architecture is a name like 'ViT-B/16', 'ViT-L/16 at 384 px', 'Swin-B',
    'Swin-B with window 12' or, off the published sizes, 'ViT/8 of width 64 and depth 4 at 32 px'.
    224 px and window 7 go without saying.
    """
    blocks = r"(?:Transformer/encoderblock_|layers\.(\d+)\.blocks\.|blocks\.)(\d+)[./]"
    indices = {(m[1], int(m[2])) for name in shapes if (m := re.match(blocks, name))}
    if not indices:
        return "", ""
    layout, patches, pos = "timm", "patch_embed.proj.weight", "pos_embed"
    if any(name.startswith("Transformer/") for name in shapes):
        layout, patches, pos = "npz", "embedding/kernel", "Transformer/posembed_input/pos_embedding"
    elif any(name.startswith("layers.0.downsample.") for name in shapes):
        layout = "swin"
    stages = {int(stage) for stage, _ in indices if stage}
    family = "Swin" if stages else "ViT"
    try:
        kernel = shapes[patches]
        # Patch kernels are (H, W, in, out) by JAX and (out, in, H, W) by torch.
        width, patch = (kernel[3], kernel[0]) if layout == "npz" else (kernel[0], kernel[3])
        if stages:
            depths = tuple(
                1 + max((block for stage, block in indices if stage == str(i)), default=-1)
                for i in range(max(stages) + 1)
            )
            table = shapes["layers.0.blocks.0.attn.relative_position_bias_table"]
            window = (isqrt(table[0]) + 1) // 2  # the table has (2 * window - 1)**2 rows
            size = _SWIN_SIZES.get((width, depths))
            arch = f"Swin-{size}" if size else f"Swin of width {width} and depths {depths}"
            return layout, arch + ("" if window == 7 else f" with window {window}")
        depth = 1 + max(block for _, block in indices)
        # isqrt drops the class token: 197 -> 14, 257 -> 16 patches a side.
        pixels = isqrt(shapes[pos][1]) * patch
        size = _VIT_SIZES.get((width, depth))
        arch = f"ViT-{size}/{patch}"
        if size is None:
            arch = f"ViT/{patch} of width {width} and depth {depth}"
        return layout, arch + ("" if pixels == 224 else f" at {pixels} px")
    except KeyError as missing:
        return layout, f"incomplete {family} without {missing.args[0]}"
    except IndexError:
        return layout, f"misshapen {family}"


def in_layout(layout: str, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a headless model as views under the names and shapes of a file layout.

    A tensor that the layout does not know keeps its name.
    """
    state = model.state_dict() | dict(model.named_buffers())
    if layout == "timm":
        return state
    if layout == "swin":  # differs in which stage the downsampling between two belongs to
        for stage in range(1, len(model.layers)):
            old, new = f"layers.{stage}.downsample.", f"layers.{stage - 1}.downsample."
            # Ascending, so that no name is taken when it is given.
            for name in [name for name in state if name.startswith(old)]:
                state[new + name.removeprefix(old)] = state.pop(name)
        return state
    out = {
        "cls": state.pop("cls_token"),
        "Transformer/posembed_input/pos_embedding": state.pop("pos_embed"),
        "embedding/kernel": state.pop("patch_embed.proj.weight").permute(2, 3, 1, 0),  # HWIO
        "embedding/bias": state.pop("patch_embed.proj.bias"),
        "Transformer/encoder_norm/scale": state.pop("norm.weight"),
        "Transformer/encoder_norm/bias": state.pop("norm.bias"),
    }
    for i, block in enumerate(model.blocks):
        old, new = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        heads = block.attn.num_heads
        for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            out[f"{new}{theirs}/scale"] = state.pop(f"{old}{ours}.weight")
            out[f"{new}{theirs}/bias"] = state.pop(f"{old}{ours}.bias")
        for ours, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            out[f"{new}MlpBlock_3/{theirs}/kernel"] = state.pop(f"{old}mlp.{ours}.weight").T
            out[f"{new}MlpBlock_3/{theirs}/bias"] = state.pop(f"{old}mlp.{ours}.bias")
        attn = f"{new}MultiHeadDotProductAttention_1/"
        weights = state.pop(f"{old}attn.qkv.weight").chunk(3)  # each (heads * width, D)
        biases = state.pop(f"{old}attn.qkv.bias").chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            out[f"{attn}{name}/kernel"] = weight.T.unflatten(1, (heads, -1))  # (D, heads, width)
            out[f"{attn}{name}/bias"] = bias.unflatten(0, (heads, -1))
        out[f"{attn}out/kernel"] = state.pop(f"{old}attn.proj.weight").T.unflatten(0, (heads, -1))
        out[f"{attn}out/bias"] = state.pop(f"{old}attn.proj.bias")
    return out | state


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[str, dict[str, Shape], Callable[[str], Tensor]]]:
    """Open a file of any format: its format, the shape of every tensor, and a reader of one tensor.

    Any error that a reader raises on a damaged file becomes a one-line BackboneError.
    """
    try:
        with open_regular(path) as stream:
            magic = stream.read(9)
        members = zipfile.ZipFile(path).namelist() if magic.startswith(b"PK\x03\x04") else []
        if members and all(name.endswith(".npy") for name in members):
            with np.load(path, allow_pickle=False) as arrays:
                yield "npz", _npz_shapes(path), lambda name: torch.from_numpy(arrays[name])
        elif any(name.endswith("data.pkl") for name in members) or magic.startswith(b"\x80"):
            tensors = _load_torch(path, mmap=bool(members))
            yield "pth", {name: tuple(t.shape) for name, t in tensors.items()}, tensors.__getitem__
        elif magic[8:] == b"{":
            with safe_open(path, framework="pt") as tensors:
                names = tensors.keys()
                shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
                yield "safetensors", shapes, tensors.get_tensor
        else:
            raise BackboneError(f"{path}: not a weights file")
    except BackboneError:
        raise
    except FileNotFoundError:
        raise BackboneError(f"{path}: no such file") from None
    except OSError as error:
        raise BackboneError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"{path}: holds pickled objects or is corrupt; only plain tensors are read"
        ) from error
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise BackboneError(
            f"{path}: not readable, truncated or corrupt ({type(error).__name__}: {reason})"
        ) from error


def _npz_shapes(path: str | Path) -> dict[str, Shape]:
    """Shapes from the headers of the arrays in an .npz, without reading the arrays."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                header = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(stream)
            if dtype.hasobject:
                raise BackboneError(f"{path}: {member} holds pickled objects, which are not read")
            shapes[member.removesuffix(".npy")] = shape
    return shapes


def _load_torch(path: str | Path, mmap: bool) -> dict[str, Tensor]:
    """The state dict in a torch file, whether bare or under 'model' or 'state_dict'."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise BackboneError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    strange = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise BackboneError(f"{path}: not a state dict, {strange[0]} is no tensor")
    return content
