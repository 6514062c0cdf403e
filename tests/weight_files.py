"""Weights files in their real formats, for small networks, and what they are tested with."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from rlrr_bench.benchmarks.backbones import BackboneError

VIT = "vit_demo_patch8_32.shapes"
SWIN = "swin_demo_patch4_window4_32.shapes"
VIT_SHAPE = {"width": 64, "depth": 4, "heads": 4, "patch": 8, "tokens": 17}


def npz_arrays(
    width, depth, heads, patch, tokens, head="original", seed=0
) -> dict[str, np.ndarray]:
    """Random arrays under the names and axes of Google's checkpoints."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        numbers = rng.random(shape, dtype=np.float32)  # much faster than normal ones
        numbers -= np.float32(0.5)
        numbers *= np.float32(0.7)  # a standard deviation of 0.2
        return numbers

    def dense(name, *shape):
        bias = shape[-1:] if len(shape) == 2 or name.endswith("out") else shape[1:]
        return {f"{name}/kernel": draw(*shape), f"{name}/bias": draw(*bias)}

    def norm(name):
        return {f"{name}/scale": 1 + draw(width), f"{name}/bias": draw(width)}

    out = {"cls": draw(1, 1, width), "embedding/bias": draw(width)}
    out["embedding/kernel"] = draw(patch, patch, 3, width)
    out["Transformer/posembed_input/pos_embedding"] = draw(1, tokens, width)
    out |= norm("Transformer/encoder_norm")
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        attn = f"{block}/MultiHeadDotProductAttention_1"
        out |= norm(f"{block}/LayerNorm_0") | norm(f"{block}/LayerNorm_2")
        for name in ("query", "key", "value"):
            out |= dense(f"{attn}/{name}", width, heads, width // heads)
        out |= dense(f"{attn}/out", heads, width // heads, width)
        out |= dense(f"{block}/MlpBlock_3/Dense_0", width, 4 * width)
        out |= dense(f"{block}/MlpBlock_3/Dense_1", 4 * width, width)
    if head == "original":
        out |= dense("pre_logits", width, width)
        out |= {"head/kernel": np.zeros((width, 21843), np.float32)}
    elif head == "zero head":
        out |= {"head/kernel": np.zeros((width, 21843), np.float32)}
    elif head == "augreg":
        out |= dense("head", width, 21843)
    elif head == "fine-tuned":
        out |= dense("head", width, 1000)
    return out


def write_npz(path: Path, arrays: dict | None = None, **changes) -> Path:
    np.savez(path, **(arrays or npz_arrays(**VIT_SHAPE | changes)))
    return path


def swin_model(num_classes: int = 0, seed: int = 0) -> SwinTransformer:
    """The demo Swin with every parameter random."""
    torch.manual_seed(seed)
    model = SwinTransformer(
        32, 4, num_classes=num_classes, embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=4
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def microsoft_state(model: SwinTransformer) -> dict[str, torch.Tensor]:
    """A Swin state dict as the original repository names it, tables of constants included."""
    out = {}
    for name, tensor in (model.state_dict() | dict(model.named_buffers())).items():
        name = re.sub(r"(?<=layers\.)\d(?=\.downsample)", lambda m: str(int(m[0]) - 1), name)
        out[name.replace("head.fc", "head")] = tensor.clone()
    return out


def fails(match: str, call, *args, **kwargs) -> str:
    """Assert a BackboneError of one line whose text holds the words of `match` in this order."""
    with pytest.raises(BackboneError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(match, text), text
    return text
