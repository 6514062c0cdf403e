"""Frozen backbones by full timm tag, from the hub or from the files people already have.

=====================================  ==========================================  ==============
tag                                    file as published (recognised by content)   normalisation
=====================================  ==========================================  ==============
vit_base_patch16_224.orig_in21k        imagenet21k/ViT-B_16.npz (pre_logits or an  mean, std 0.5
                                       all-zero head; VPT: imagenet21k_ViT-B_16)
vit_base_patch16_224.augreg_in21k      augreg/B_16-i21k-300ep-....npz (21843-way)  mean, std 0.5
vit_large_patch16_224.orig_in21k       imagenet21k/ViT-L_16.npz                    mean, std 0.5
vit_large_patch16_224.augreg_in21k     augreg/L_16-i21k-300ep-....npz              mean, std 0.5
vit_huge_patch14_224.orig_in21k        imagenet21k/ViT-H_14.npz                    mean, std 0.5
swin_base_patch4_window7_224.ms_in22k  swin_base_patch4_window7_224_22k.pth        ImageNet
those that an extension brings          shipped with it                             its own
=====================================  ==========================================  ==============

timm's own .safetensors, .pth and .bin state dicts of these models are taken as well. Look-alikes
(ViT fine-tuned on ImageNet-1k under the same file name, Swin ``..._22kto1k.pth``) are refused, and
so are names without a tag: timm would complete them to a checkpoint other than the papers'.
"""

import copy
import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from timm.layers import DropPath, trunc_normal_
from timm.models import get_arch_pretrained_cfgs, get_deprecated_models, is_model_in_modules
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from .extensions import register_backbone
from .weights import (
    AUGREG,
    FINE_TUNED,
    HEADLESS,
    ORIGINAL,
    SWIN_22K,
    BackboneError,
    WeightsFile,
    describe_shapes,
    identify,
    in_layout,
    inspect,
    tensors_of,
)

__all__ = ["Backbone", "BackboneError", "create", "identify", "weights_fingerprint"]

_ORIGINS = {"orig_in21k": ORIGINAL, "augreg_in21k": AUGREG, "ms_in22k": SWIN_22K}


@dataclass(frozen=True)
class Backbone:
    """A pretrained model with a fresh head, and what is needed to feed and to name it."""

    tag: str
    model: nn.Module  # (B, 3, input_size, input_size) -> (B, num_classes); train mode, no dropout
    fingerprint: str  # see weights_fingerprint; headless, so the same for every num_classes
    source: str  # 'hub', 'random', or format and checkpoint: 'npz original ImageNet-21k'
    mean: tuple[float, float, float]  # of RGB pixels in [0, 1]
    std: tuple[float, float, float]
    input_size: int  # pixels
    interpolation: str
    pool: str  # 'token' or 'avg'


def create(tag: str, num_classes: int, weights: str | Path | None = None) -> Backbone:
    """Build a backbone; the second call for the same tag and weights only copies the first's.

    Args:
        tag: full timm name ``model.tag``, e.g. 'vit_base_patch16_224.orig_in21k'.
        num_classes: outputs of the new head, drawn from the global generator as timm does
            (truncated normal of 0.02, zero bias).
        weights: None for the checkpoint that belongs to the tag (hub, or the file shipped with an
            extension's tag), 'hub', 'random' (always the same random weights, for smoke tests), a
            weights file, or a folder in which exactly one file is right for the tag. A process
            reads a file once, even if it changes on disk.

    Raises:
        BackboneError: the tag is not a full one, no weights were found, or they are not this tag's.
    """
    if num_classes < 1:
        raise BackboneError(f"{tag}: num_classes is {num_classes}, expected 1 or more")
    pretrained, digest, source = _pretrained(tag, None if weights is None else str(weights))
    model = copy.deepcopy(pretrained)
    model.reset_classifier(num_classes)
    head = model.get_classifier()
    trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    cfg = model.pretrained_cfg
    return Backbone(
        tag=tag,
        model=model,
        fingerprint=digest,
        source=source,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        input_size=cfg["input_size"][-1],
        interpolation=cfg["interpolation"],
        pool=model.global_pool,
    )


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of the names.

    Under timm's names and without a head it depends on the weights only, not on their file format.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# Two are kept: runs are grouped by backbone, and one is up to 2.5 GB.
@lru_cache(maxsize=2)
def _pretrained(tag: str, weights: str | None) -> tuple[nn.Module, str, str]:
    """Headless model, fingerprint and source. Calls share the model: copy it, never hand it out."""
    _check_tag(tag)
    shipped = timm.get_pretrained_cfg(tag).file  # set for those that an extension brings
    # Building draws random numbers; the generator must be the same after a hit as after a miss.
    with torch.random.fork_rng(devices=[]):
        if weights == "random":
            torch.default_generator.manual_seed(0)
            model = _build(tag)
            return model, weights_fingerprint(model.state_dict()), "random"
        model = _build(tag, weight_init="skip")  # timm's slow part, and every tensor is loaded
    arch, origin = _target(tag, model)
    if weights is None and shipped:
        file, source = inspect(shipped), "shipped"
    elif weights in (None, "hub"):
        file, source = inspect(_download(tag)), "hub"
    else:
        file = _find(Path(weights), tag, arch, origin)
        source = f"{file.format} {file.origin}"
    if not _fit(file, arch, origin):
        raise BackboneError(
            f"{file.path}: found {file.description}, expected {arch} {origin} for {tag}"
        )
    load_weights(model, file)
    return model, weights_fingerprint(model.state_dict()), source


def _check_tag(tag: str) -> None:
    """Refuse every name that timm would have to complete or translate."""
    is_extension = register_backbone(tag)
    arch, _, version = tag.partition(".")
    deprecated = get_deprecated_models()
    if version and tag in get_arch_pretrained_cfgs(arch):
        families = ("vision_transformer", "swin_transformer")
        if is_extension or is_model_in_modules(arch, families):
            return
        raise BackboneError(f"{tag} is neither a ViT nor a Swin of timm's, expected one of them")
    arch = (deprecated.get(tag) or arch).partition(".")[0]
    valid = list(get_arch_pretrained_cfgs(arch))
    if valid and not version:
        meant = deprecated.get(tag) or f"{arch}.{timm.get_pretrained_cfg(arch).tag}"
        plain = f"{arch}.orig_in21k"
        advice = f"; {plain} is the papers' plain checkpoint" if plain in valid else ""
        raise BackboneError(
            f"{tag} is not a full tag, timm would take {meant}{advice}; "
            f"expected one of {', '.join(valid)}"
        )
    names = timm.list_models(include_tags=True)
    near = difflib.get_close_matches(tag, names, n=3) or list(_ORIGINS)
    raise BackboneError(f"{tag} is unknown to timm; nearest: {', '.join(near)}")


def _build(tag: str, **options: str) -> nn.Module:
    """The model of a tag without head and without dropout (timm's Swin drops paths by default)."""
    model = timm.create_model(tag, num_classes=0, drop_rate=0.0, drop_path_rate=0.0, **options)
    for name, module in model.named_modules():
        rate = getattr(module, "p", 0) if isinstance(module, nn.Dropout) else 0
        rate = getattr(module, "drop_prob", 0) if isinstance(module, DropPath) else rate
        if rate:
            raise BackboneError(f"{tag}: {name} drops with rate {rate}, expected no dropout")
    return model


def _download(tag: str) -> str:
    """The checkpoint of a tag in the hub's cache, fetched as timm would."""
    try:
        return hf_hub_download(timm.get_pretrained_cfg(tag).hf_hub_id, "model.safetensors")
    except Exception as error:
        raise BackboneError(
            f"{tag}: no weights from the hub ({type(error).__name__}); "
            "pass weights=<file or folder> to load a local copy"
        ) from error


def _target(tag: str, model: nn.Module) -> tuple[str, str]:
    """The architecture and origin that a file for this tag has, in the words of `identify`.

    The origin is 'weights' where a file does not tell whether it is the tag's checkpoint.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fine_tuned = timm.get_pretrained_cfg(tag).num_classes == 1000
    origin = _ORIGINS.get(tag.partition(".")[2], FINE_TUNED if fine_tuned else "weights")
    return describe_shapes(shapes)[1], origin


def _fit(file: WeightsFile, arch: str, origin: str) -> str:
    """'exact', 'headless' (the file does not tell whether it is the right one) or '' (neither)."""
    if file.arch != arch:
        return ""
    if file.origin in HEADLESS:
        return "headless"
    known = origin != "weights" or file.origin in (ORIGINAL, AUGREG, SWIN_22K, FINE_TUNED)
    return "exact" if file.origin == origin or not known else ""


def _find(path: Path, tag: str, arch: str, origin: str) -> WeightsFile:
    """The file at `path`; if that is a folder, the one file in it that fits best."""
    if not path.is_dir():
        return inspect(path)
    fits: dict[str, list[WeightsFile]] = {}
    report = []
    for candidate in sorted(entry for entry in path.iterdir() if entry.is_file()):
        try:
            file = inspect(candidate)
        except BackboneError as error:
            report.append(str(error).replace(f"{candidate}:", f"{candidate.name}:"))
            continue
        report.append(f"{candidate.name}: {file.description}")
        fits.setdefault(_fit(file, arch, origin), []).append(file)
    best = fits.get("exact") or fits.get("headless") or []
    if len(best) == 1:
        return best[0]
    raise BackboneError(
        f"{path}: expected {'exactly one' if best else 'a'} {arch} {origin} for {tag}, "
        f"found {'; '.join(report) or 'no files'}"
    )


def load_weights(model: nn.Module, file: WeightsFile) -> None:
    """Load a headless model with timm's loaders, then compare every tensor with the file.

    The comparison shares nothing with the loaders: it goes from the model to the file's names and
    axes, they go from the file to the model's.

    Raises:
        BackboneError: a tensor is missing, extra, misshapen, of another dtype or not finite, or
            differs from the file after loading.
    """
    tensors = tensors_of(file)
    buffers = dict(model.named_buffers())  # Swin's tables of constants; files may leave them out
    expected = in_layout(file.layout, model)
    missing = [name for name in expected if name not in tensors and name not in buffers]
    wrong = [f"{name} is missing" for name in missing]
    for name, tensor in tensors.items():
        if name not in expected:
            wrong.append(f"{name} is not expected")
        elif tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            wrong.append(f"{name} has shape {shapes}")
        elif tensor.dtype != expected[name].dtype:
            wrong.append(f"{name} is {tensor.dtype}, expected {expected[name].dtype}")
        elif not tensor.sum().isfinite():  # one NaN or infinity is enough; isfinite() takes seconds
            wrong.append(f"{name} has values that are not finite, expected finite ones")
    if not wrong:
        if file.layout == "npz":
            model.load_pretrained(str(file.path))
        elif file.layout == "swin":
            model.load_state_dict(checkpoint_filter_fn(dict(tensors), model))
        else:  # older timm mistakes its own headless Swin for the original layout in that filter
            model.load_state_dict({k: v for k, v in tensors.items() if k not in buffers})
        expected = in_layout(file.layout, model)
        wrong = [
            f"{name} differs from the file after loading"
            for name, tensor in tensors.items()
            if not torch.equal(tensor, expected[name])
        ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BackboneError(f"{file.path} ({file.description}): {', '.join(wrong[:3])}{more}")
