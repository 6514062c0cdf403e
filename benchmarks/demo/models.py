"""The demo backbones: a small ViT and a small Swin, registered with timm like any other model.

Importing this module is enough for ``timm.create_model`` to know both names. The checkpoints that
``rlrr-bench demo pretrain`` writes lie beside it, under ``weights/``.
"""

from pathlib import Path

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from .render import CLASSES, IMAGE_SIZE

WEIGHTS = Path(__file__).parent / "weights"

# Short name on the command line -> the timm name (architecture.tag).
MODEL_NAMES = {
    "vit": "vit_demo_patch8_32.shapes",
    "swin": "swin_demo_patch4_window4_32.shapes",
}


def checkpoint_path(model_name: str, folder: Path = WEIGHTS) -> Path:
    """The path of a demo model's checkpoint."""
    return folder / f"{model_name}.safetensors"


def _cfg(model_name: str, **overrides: object) -> dict[str, object]:
    """A timm pretrained_cfg; the statistics map pixels in [0, 1] to [-1, 1]."""
    return {
        # `file` lets timm.create_model(..., pretrained=True) find the weights by itself.
        "file": str(checkpoint_path(model_name)),
        "num_classes": len(CLASSES),
        "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "license": "apache-2.0",
        **overrides,
    }


default_cfgs = generate_default_cfgs(
    {
        MODEL_NAMES["vit"]: _cfg(
            MODEL_NAMES["vit"],
            first_conv="patch_embed.proj",
            classifier="head",
        ),
        MODEL_NAMES["swin"]: _cfg(
            MODEL_NAMES["swin"],
            pool_size=(4, 4),
            first_conv="patch_embed.proj",
            classifier="head.fc",
        ),
    }
)


@register_model
def vit_demo_patch8_32(pretrained: bool = False, **kwargs: object) -> nn.Module:
    """ViT-B in small: 16 patch tokens and a class token of width 64, 4 blocks, 4 heads."""
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4, **kwargs}
    return build_model_with_cfg(
        VisionTransformer,
        "vit_demo_patch8_32",
        pretrained,
        **args,
    )


@register_model
def swin_demo_patch4_window4_32(pretrained: bool = False, **kwargs: object) -> nn.Module:
    """Swin in small: 8x8 tokens of width 32, then 4x4 of width 64, two blocks each, window 4.

    The second block of the first stage has a shifted window; the second stage is one window wide.
    """
    args = {
        "img_size": 32,
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": 32,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "drop_path_rate": 0.0,  # as for the ViT: too small a model to need regularising
        **kwargs,
    }
    return build_model_with_cfg(
        SwinTransformer,
        "swin_demo_patch4_window4_32",
        pretrained,
        feature_cfg={"out_indices": (0, 1), "flatten_sequential": True},
        **args,
    )
