"""Backbones: names, loading bit by bit, one fingerprint whatever the format."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from timm.models.swin_transformer import WindowAttention
from weight_files import (
    SWIN,
    VIT,
    VIT_SHAPE,
    fails,
    microsoft_state,
    npz_arrays,
    swin_model,
    write_npz,
)

from rlrr_bench.benchmarks import backbones, weights
from rlrr_bench.benchmarks.backbones import create, identify, weights_fingerprint

pytestmark = pytest.mark.usefixtures("fresh_cache")
CAN_BUILD_ON_META = hasattr(WindowAttention, "init_non_persistent_buffers")  # of this timm

# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("vit_base_patch16_224", "augreg2_in21k_ft_in1k; vit_base_patch16_224.orig_in21k is the"),
        ("vit_base_patch16_224_in21k", r"take vit_base_patch16_224.augreg_in21k; .*orig_in21k is"),
        ("vit_large_patch16_224_in21k", "take vit_large_patch16_224.augreg_in21k; "),
        ("vit_huge_patch14_224_in21k", "take vit_huge_patch14_224.orig_in21k; "),
        ("swin_base_patch4_window7_224", r"expected one of .*ms_in22k"),
        ("vit_base_patch16_224.orig_in22k", "nearest: .*vit_base_patch16_224.orig_in21k"),
        ("vit_bse_patch16_224.orig_in21k", "nearest: .*vit_base_patch16_224.orig_in21k"),
        ("resnet50.a1_in1k", "neither a ViT nor a Swin"),
        ("vit_demo_patch8_32", "vit_demo_patch8_32.shapes"),
        ("", "unknown"),
    ],
)
def test_only_full_tags_are_taken(name, match):
    assert fails(match, create, name, 10, "random").startswith(name)


def test_needs_a_class():
    fails("num_classes is 0", create, VIT, 0, "random")


@pytest.mark.skipif(
    not CAN_BUILD_ON_META,
    reason="this timm cannot build on the meta device, and a ViT-H is 2.5 GB",
)
def test_published_tags_and_their_files():
    imagenet = (0.485, 0.456, 0.406)
    expected = {
        "vit_base_patch16_224.orig_in21k": ("ViT-B/16", weights.ORIGINAL, (0.5,) * 3),
        "vit_base_patch16_224.augreg_in21k": ("ViT-B/16", weights.AUGREG, (0.5,) * 3),
        "vit_large_patch16_224.orig_in21k": ("ViT-L/16", weights.ORIGINAL, (0.5,) * 3),
        "vit_large_patch16_224.augreg_in21k": ("ViT-L/16", weights.AUGREG, (0.5,) * 3),
        "vit_huge_patch14_224.orig_in21k": ("ViT-H/14", weights.ORIGINAL, (0.5,) * 3),
        "swin_base_patch4_window7_224.ms_in22k": ("Swin-B", weights.SWIN_22K, imagenet),
        "swin_base_patch4_window7_224.ms_in22k_ft_in1k": ("Swin-B", weights.FINE_TUNED, imagenet),
        "vit_base_patch16_384.augreg_in21k_ft_in1k": (
            "ViT-B/16 at 384 px",
            weights.FINE_TUNED,
            (0.5,) * 3,
        ),
        "swin_base_patch4_window12_384.ms_in22k": (
            "Swin-B with window 12",
            weights.SWIN_22K,
            imagenet,
        ),
    }
    for tag, (arch, origin, mean) in expected.items():
        backbones._check_tag(tag)
        with torch.device("meta"):
            model = backbones._build(tag, weight_init="skip")
        assert backbones._target(tag, model) == (arch, origin)
        assert model.pretrained_cfg["mean"] == mean
        layout = "swin" if arch.startswith("Swin") else "npz"
        views = weights.in_layout(layout, model)
        found = weights.describe_shapes({k: tuple(v.shape) for k, v in views.items()})
        assert found == (layout, arch)
        assert sum(v.numel() for v in views.values()) == sum(
            t.numel() for t in [*model.parameters(), *model.buffers()]
        )


# --- loading --------------------------------------------------------------------------------------


def jax_features(arrays: dict, image: np.ndarray, depth: int) -> np.ndarray:
    """The forward pass of Google's ViT in numpy: image (32, 32, 3) -> tokens (17, width)."""

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]

    def dense(x, name, axes="nd,de->ne"):
        return np.einsum(axes, x, arrays[f"{name}/kernel"]) + arrays[f"{name}/bias"]

    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    patches = image.reshape(4, 8, 4, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, 8, 8, 3)
    x = dense(patches, "embedding", "nhwc,hwcd->nd")
    x = np.concatenate([arrays["cls"][0], x])
    x = x + arrays["Transformer/posembed_input/pos_embedding"][0]
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        attn = f"{block}/MultiHeadDotProductAttention_1"
        y = norm(x, f"{block}/LayerNorm_0")
        q, k, v = (dense(y, f"{attn}/{n}", "nd,dhk->nhk") for n in ("query", "key", "value"))
        logits = np.einsum("nhk,mhk->hnm", q, k) / np.sqrt(q.shape[-1])
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        y = np.einsum("hnm,mhk->nhk", scores / scores.sum(-1, keepdims=True), v)
        x = x + dense(y, f"{attn}/out", "nhk,hkd->nd")
        y = dense(norm(x, f"{block}/LayerNorm_2"), f"{block}/MlpBlock_3/Dense_0")
        y = torch.nn.functional.gelu(torch.from_numpy(y)).numpy()
        x = x + dense(y, f"{block}/MlpBlock_3/Dense_1")
    return norm(x, "Transformer/encoder_norm")


def test_npz_gives_the_network_that_wrote_it(tmp_path, original):
    arrays = npz_arrays(**VIT_SHAPE)
    got = create(VIT, 5, write_npz(tmp_path / "a.npz", arrays))
    image = np.random.default_rng(1).standard_normal((32, 32, 3))
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    features = got.model.double().forward_features(batch)[0].detach().numpy()
    np.testing.assert_allclose(features, jax_features(arrays, image, 4), atol=1e-9)
    assert got.source == "npz original ImageNet-21k"
    assert (got.tag, got.pool, got.input_size, got.interpolation) == (VIT, "token", 32, "bicubic")
    assert got.mean == got.std == (0.5, 0.5, 0.5)


def test_swin_gives_the_network_that_wrote_it(tmp_path):
    source = swin_model(21841)
    path = tmp_path / "swin_base_patch4_window7_224_22kto1k.pth"
    torch.save({"model": microsoft_state(source)}, path)
    # As a demo tag accepts only what is not a published checkpoint, ask with the tag's own words.
    model = swin_model(0, seed=1)
    backbones.load_weights(model, weights.inspect(path))
    batch = torch.randn(2, 3, 32, 32)
    # The model is still in training mode: its dropout, if any, would show.
    assert torch.equal(
        model.eval()(batch),
        source.eval().forward_head(source.forward_features(batch), pre_logits=True),
    )


def test_no_path_is_dropped():
    def drops(model):
        return [m for m in model.modules() if isinstance(m, DropPath)]

    tag = "swin_base_patch4_window7_224.ms_in22k"
    with torch.device("meta" if CAN_BUILD_ON_META else "cpu"):
        assert drops(timm.create_model(tag)), "timm's default has changed, this test is empty"
        assert not drops(backbones._build(tag, weight_init="skip"))
    model = create(SWIN, 5, "random").model.train()
    batch = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(batch), model(batch))


def test_one_fingerprint_for_every_format(tmp_path):
    file = write_npz(tmp_path / "a.npz", head="none")
    first = create(VIT, 5, file)
    state = {k: v for k, v in first.model.state_dict().items() if not k.startswith("head.")}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.bin")
    headed = state | {"head.weight": torch.randn(9, 64), "head.bias": torch.randn(9)}
    torch.save({"state_dict": headed}, tmp_path / "headed.pth")
    for name in ("a.safetensors", "a.bin", "headed.pth"):
        other = create(VIT, 8, tmp_path / name)
        assert other.fingerprint == first.fingerprint == weights_fingerprint(state)
        for key, value in state.items():
            assert torch.equal(other.model.state_dict()[key], value)
    nudged = {k: v.clone() for k, v in state.items()}
    nudged["blocks.2.norm1.bias"][3] += 1e-7
    assert weights_fingerprint(nudged) != first.fingerprint
    assert weights_fingerprint({f"{k}x": v for k, v in state.items()}) != first.fingerprint

    swin = swin_model(11)
    prints = set()
    for name, content in (("ms", {"model": microsoft_state(swin)}), ("timm", swin.state_dict())):
        torch.save(content, tmp_path / name)
        prints.add(create(SWIN, 5, tmp_path / name).fingerprint)
    save_file(swin.state_dict(), tmp_path / "timm")
    backbones._pretrained.cache_clear()
    prints.add(create(SWIN, 5, tmp_path / "timm").fingerprint)
    stripped = {
        k: v for k, v in microsoft_state(swin).items() if "index" not in k and "mask" not in k
    }
    torch.save(stripped, tmp_path / "stripped")
    prints.add(create(SWIN, 5, tmp_path / "stripped").fingerprint)
    assert len(prints) == 1


def test_second_create_reads_nothing_and_is_independent(tmp_path, monkeypatch, original):
    path = write_npz(tmp_path / "a.npz")
    torch.manual_seed(3)
    first = create(VIT, 5, path)
    kept = {k: v.clone() for k, v in first.model.state_dict().items()}
    for name in ("inspect", "tensors_of", "_build", "weights_fingerprint"):
        monkeypatch.setattr(backbones, name, None)
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.fill_(7)
    torch.manual_seed(3)
    second = create(VIT, 5, str(path))
    assert second.fingerprint == first.fingerprint
    # The head comes from the caller's seed, the same for a miss and a hit of the cache.
    for key, value in second.model.state_dict().items():
        assert torch.equal(value, kept[key]), key
    third = create(VIT, 7, path)
    assert third.model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert third.model.num_classes == 7


def test_fresh_head_is_timms():
    torch.manual_seed(0)
    head = create(VIT, 2000, "random").model.get_classifier()
    assert head.weight.shape == (2000, 64)
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not head.bias.any()


def test_random_weights_are_always_the_same_and_leave_the_generator_alone():
    torch.manual_seed(1)
    first = create(SWIN, 5, "random")
    state = torch.get_rng_state()
    torch.manual_seed(1)
    create(SWIN, 5, "random")
    assert torch.equal(state, torch.get_rng_state())
    backbones._pretrained.cache_clear()
    torch.manual_seed(2)
    again = create(SWIN, 5, "random")
    assert (first.source, first.fingerprint) == ("random", again.fingerprint)
    assert not torch.equal(first.model.head.fc.weight, again.model.head.fc.weight)
    assert create(VIT, 5, "random").fingerprint != first.fingerprint


def test_hub(tmp_path, monkeypatch):
    tag = "vit_tiny_patch16_224.augreg_in21k"

    def offline(*args):
        raise OSError("cannot resolve\nhuggingface.co")

    monkeypatch.setattr(backbones, "hf_hub_download", offline)
    for source in (None, "hub"):
        fails(rf"{tag}: no weights from the hub \(OSError\); pass weights=", create, tag, 5, source)
    model = timm.create_model(tag, num_classes=21843)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def online(*args):
        asked.append(args)
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(backbones, "hf_hub_download", online)
    got = create(tag, 5)
    assert asked == [(f"timm/{tag}", "model.safetensors")]
    assert got.source == "hub"
    assert torch.equal(got.model.blocks[3].attn.qkv.weight, model.blocks[3].attn.qkv.weight)


@pytest.mark.parametrize("tag", [VIT, SWIN])
def test_shipped_demo_weights(tag):
    backbones._check_tag(tag)
    if not Path(timm.get_pretrained_cfg(tag).file).exists():
        pytest.skip("demo weights are not there yet")
    got = create(tag, 4)
    assert got.source == "shipped"
    assert got.model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert got.fingerprint != create(tag, 4, "random").fingerprint


# --- full size ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_vit_base_in_full_size(tmp_path):
    arrays = npz_arrays(768, 12, 12, 16, 197, head="none")
    arrays["head/kernel"] = np.zeros((768, 21843), np.float32)
    path = write_npz(tmp_path / "imagenet21k_ViT-B_16.npz", arrays)
    assert identify(path) == "ViT-B/16 original ImageNet-21k (.npz)"
    tag = "vit_base_patch16_224.orig_in21k"
    got = create(tag, 100, tmp_path)
    assert sum(p.numel() for p in got.model.parameters()) == 85_798_656 + 76_900
    assert (got.pool, got.input_size, got.interpolation) == ("token", 224, "bicubic")
    block = got.model.blocks[11]
    name = "Transformer/encoderblock_11/MultiHeadDotProductAttention_1/value"
    value = torch.from_numpy(arrays[f"{name}/kernel"]).reshape(768, 768).T
    assert torch.equal(block.attn.qkv.weight[1536:], value)
    assert create(tag, 10, tmp_path).fingerprint == got.fingerprint
    augreg = "vit_base_patch16_224.augreg_in21k"
    fails("found ViT-B/16 original .*expected ViT-B/16 AugReg", create, augreg, 10, path)
