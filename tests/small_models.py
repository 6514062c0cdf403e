"""Small backbones with random weights, and every method with some options, for the tests here."""

from collections.abc import Iterable

import pytest
import torch
from timm.models import SwinTransformer, VisionTransformer

from rlrr_bench import methods

torch.set_num_threads(1)

# Options beside the defaults that take another path through a method's code.
VARIANTS = {
    "adapter": [
        {"bottleneck": 3, "placement": "houlsby"},
        {"bottleneck": 3, "init": "noah", "activation": "quick_gelu", "dropout": 0.1},
    ],
    "arc": [{"sites": "attention", "rank": 7}],
    "fact": [{"mode": "tt", "rank": 4, "scale": 10}, {"slices": "code", "rank": 5}],
    "lora": [{"targets": ["q", "v", "fc2"], "rank": 3, "alpha": 6}, {"init": "noah"}],
    "mlp": [{"layers": 2}],
    "partial": [{"blocks": 3}],
    "rlrr": [
        {"left": False, "residual": False},
        {"modules": ["q", "v", "out", "norm"], "layers": "first:2", "outside_blocks": False},
        {"qkv": "fused", "init": "identity"},
    ],
    "ssf": [{"merging_norms": False}],
    "vpt": [{"mode": "shallow", "prompts": 3}],
}


def backbone(kind: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A ViT of 3 blocks or a Swin of 3 stages (two of them shifting), always with the same weights.

    All tensors are random, so that no bias is zero and no norm the identity.
    """
    if kind == "vit":
        model = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=5
        )
    else:
        model = SwinTransformer(
            img_size=32,
            patch_size=2,
            window_size=4,
            embed_dim=16,
            depths=(2, 2, 1),
            num_heads=(2, 4, 4),
            num_classes=5,
            drop_path_rate=0.0,
        )
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(("norm" in name and name.endswith("weight")) + 0.1 * noise)
    return model.to(dtype).eval()


def images(n: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(2)).to(dtype)


def adapted(kind: str, name: str, options: dict, dtype=torch.float32, seed: int = 0):
    """The small backbone with a method attached, in evaluation mode."""
    torch.manual_seed(seed)
    return methods.apply(name, backbone(kind, dtype), **options)


def perturb(model: torch.nn.Module, size: float = 0.05) -> torch.nn.Module:
    """Move every trained tensor, so that none is zero; returns the model."""
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
                parameter.add_(size * noise)
    return model


def perturbed(kind: str, name: str, **options) -> torch.nn.Module:
    return perturb(adapted(kind, name, options, torch.float64))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def with_weights(
    model: torch.nn.Module, kind: str, changed: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Logits of the plain backbone with the model's head and some other tensors changed."""
    plain = backbone(kind, torch.float64)
    head = {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    plain.load_state_dict(plain.state_dict() | head | changed, strict=True)
    return plain(X)


def cases(names: Iterable[str]) -> tuple[list, list]:
    """(kind, method, options) for every method, kind of backbone and variant.

    Returns the cases that attach, and those that the method refuses.
    """
    supported, refused = [], []
    for name in names:
        for options in ({}, *VARIANTS.get(name, [])):
            for kind in ("vit", "swin"):
                label = ",".join(f"{k}={v}" for k, v in options.items())
                case = pytest.param(kind, name, options, id=f"{kind}-{name}-{label}".rstrip("-"))
                try:
                    adapted(kind, name, options)
                    supported.append(case)
                except methods.MethodError:
                    refused.append(case)
    return supported, refused


SUPPORTED, REFUSED = cases(methods.names())

X = images(dtype=torch.float64)
