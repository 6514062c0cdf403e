"""Backbones: recognising weights files, loading them bit by bit, refusing the look-alikes."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks import backbones, weights
from benchmarks.backbones import BackboneError, create, fingerprint, identify

VIT = "vit_demo_patch8_32.shapes"
SWIN = "swin_demo_patch4_window4_32.shapes"
VIT_SHAPE = {"width": 64, "depth": 4, "heads": 4, "patch": 8, "tokens": 17}


@pytest.fixture(autouse=True)
def _fresh_cache():
    backbones._pretrained.cache_clear()


@pytest.fixture
def original(monkeypatch):
    """Let the small demo ViT stand for a tag of the original checkpoint."""
    monkeypatch.setitem(backbones._ORIGINS, "shapes", weights.ORIGINAL)


def npz_arrays(
    width, depth, heads, patch, tokens, head="original", seed=0
) -> dict[str, np.ndarray]:
    """Random arrays under the names and axes of Google's checkpoints."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.2)

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
    not hasattr(WindowAttention, "init_non_persistent_buffers"),
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
        with torch.device("meta" if tag.startswith("vit") else "cpu"):
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


# --- what a file is -------------------------------------------------------------------------------

TINY = "ViT/8 of width 64 and depth 4 at 32 px"


@pytest.mark.parametrize(
    ("head", "origin"),
    [
        ("original", "original ImageNet-21k"),
        ("zero head", "original ImageNet-21k"),
        ("augreg", "AugReg ImageNet-21k"),
        ("fine-tuned", "fine-tuned on ImageNet-1k"),
        ("none", "headless, cannot tell original from AugReg or fine-tuned"),
    ],
)
def test_identify_npz_by_its_head(tmp_path, head, origin):
    path = write_npz(tmp_path / "ViT-B_16.npz", head=head)
    assert identify(path) == f"{TINY} {origin} (.npz)"
    # Neither the name nor the suffix takes part.
    assert identify(path.rename(tmp_path / "weights.pth")) == f"{TINY} {origin} (.npz)"
    compressed = tmp_path / "compressed.npz"
    np.savez_compressed(compressed, **npz_arrays(**VIT_SHAPE, head=head))
    assert identify(compressed) == f"{TINY} {origin} (.npz)"


@pytest.mark.parametrize(
    ("ways", "origin"),
    [
        (21841, "ImageNet-22k"),
        (1000, "fine-tuned on ImageNet-1k"),
        (7, "7-way head"),
        (0, "headless, cannot tell ImageNet-22k from fine-tuned"),
    ],
)
def test_identify_swin_by_its_head(tmp_path, ways, origin):
    model = swin_model(ways)
    name = f"Swin of width 32 and depths (2, 2) with window 4 {origin}"
    path = tmp_path / "a.pth"
    torch.save({"model": microsoft_state(model)}, path)
    assert identify(path) == f"{name} (.pth)"
    torch.save(model.state_dict(), path)
    assert identify(path) == f"timm state dict of {name} (.pth)"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    assert identify(path) == f"timm state dict of {name} (.pth)"
    save_file(model.state_dict(), path)
    assert identify(path) == f"timm state dict of {name} (.safetensors)"


def test_identify_what_is_not_weights(tmp_path):
    path = tmp_path / "ViT-B_16.npz"
    for content in (b"", b"<html>404 Not Found</html>", b"version https://git-lfs.github.com"):
        path.write_bytes(content)
        assert identify(path) == "not a weights file"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/1.jpg", b"")
    assert identify(path) == "not a weights file"
    np.savez(path, x=np.zeros(3))
    assert identify(path) == "no ViT or Swin weights (1 tensors, .npz)"
    save_file(timm.create_model("resnet18").state_dict(), path)
    assert identify(path).startswith("no ViT or Swin weights (122 tensors, .safetensors)")
    assert identify(tmp_path / "none.npz") == "no such file"


@pytest.mark.parametrize("form", ["npz", "pth", "safetensors", "legacy pth"])
def test_truncated_files_are_one_line_errors(tmp_path, form):
    path = tmp_path / "file"
    state = swin_model().state_dict()
    if form == "npz":
        write_npz(tmp_path / "file.npz").rename(path)
    elif form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "pth")
    whole = path.read_bytes()
    for keep in (len(whole) - 9, len(whole) // 2, 200, 12):
        path.write_bytes(whole[:keep])
        assert "ImageNet" not in identify(path)
        fails(f"{path}: .*(truncated|corrupt)", create, VIT, 5, path)


def test_flipped_bytes_in_npz_are_found(tmp_path):
    path = write_npz(tmp_path / "a.npz", head="none")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    fails(f"{path}: .*corrupt .*CRC", create, VIT, 5, path)


class _Bomb:
    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_is_unpickled(tmp_path):
    bomb = _Bomb()
    bomb.target = str(tmp_path / "executed")
    path = tmp_path / "a.pth"
    torch.save({"model": microsoft_state(swin_model()), "config": bomb}, path)
    fails(f"{path}: holds pickled objects", create, SWIN, 5, path)
    path.write_bytes(pickle.dumps(bomb))
    fails(f"{path}: ", create, SWIN, 5, path)
    arrays = npz_arrays(**VIT_SHAPE) | {"extra": np.array([bomb], dtype=object)}
    path = write_npz(tmp_path / "a.npz", arrays)
    fails(f"{path}: extra.npy holds pickled objects", create, VIT, 5, path)
    torch.save({"model": microsoft_state(swin_model()) | {"epoch": 3}}, path)
    fails(f"{path}: not a state dict, epoch is no tensor", create, SWIN, 5, path)
    torch.save([1, 2], path)
    fails(f"{path}: holds a list", create, SWIN, 5, path)
    assert not (tmp_path / "executed").exists()


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
    backbones.load(model, weights.inspect(path))
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
        assert other.fingerprint == first.fingerprint == fingerprint(state)
        for key, value in state.items():
            assert torch.equal(other.model.state_dict()[key], value)
    nudged = {k: v.clone() for k, v in state.items()}
    nudged["blocks.2.norm1.bias"][3] += 1e-7
    assert fingerprint(nudged) != first.fingerprint
    assert fingerprint({f"{k}x": v for k, v in state.items()}) != first.fingerprint

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
    for name in ("inspect", "read", "_build", "fingerprint"):
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


# --- faults ---------------------------------------------------------------------------------------

ATTENTION = "Transformer/encoderblock_2/MultiHeadDotProductAttention_1"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({f"{ATTENTION}/key/bias": None}, f"{ATTENTION}/key/bias is missing$"),
        ({"embedding/kernel": None}, "incomplete ViT without embedding/kernel"),
        ({"cls": None}, "cls is missing$"),
        ({"Transformer/encoder_norm/scale": None}, "encoder_norm/scale is missing$"),
        ({"Transformer/encoder_norm/gain": (64,)}, "encoder_norm/gain is not expected$"),
        ({"cls": (1, 1, 65)}, r"cls has shape \(1, 1, 65\), expected \(1, 1, 64\)$"),
        ({f"{ATTENTION}/query/kernel": (64, 2, 32)}, r"query/kernel has shape .*\(64, 4, 16\)$"),
        ({f"{ATTENTION}/out/kernel": (64, 64)}, r"out/kernel has shape .*\(4, 16, 64\)$"),
        ({"Transformer/posembed_input/pos_embedding": (1, 145, 64)}, "at 96 px.*expected .*32 px"),
        ({"embedding/kernel": (64,)}, "found misshapen ViT"),
    ],
)
def test_wrong_tensors_in_npz_are_named(tmp_path, change, match):
    arrays = npz_arrays(**VIT_SHAPE, head="none")
    for name, shape in change.items():
        arrays.pop(name, None)
        if shape:
            arrays[name] = np.zeros(shape, np.float32)
    path = write_npz(tmp_path / "ViT-B_16.npz", arrays)
    assert str(path) in fails(match, create, VIT, 5, path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layers.1.blocks.0.mlp.fc1.bias": None}, r"layers.1.blocks.0.mlp.fc1.bias is missing$"),
        ({"layers.0.downsample.norm.bias": None}, r"layers.0.downsample.norm.bias is missing$"),
        ({"norm.scale": (64,)}, "norm.scale is not expected$"),
        ({"norm.weight": (65,)}, r"norm.weight has shape \(65,\), expected \(64,\)$"),
        (
            {"layers.0.blocks.0.attn.relative_position_bias_table": (169, 2)},
            r"depths \(2, 2\) 11-w",
        ),
        ({"layers.0.blocks.1.attn_mask": (4, 16, 16)}, "attn_mask differs from the file after"),
    ],
)
def test_wrong_tensors_in_swin_are_named(tmp_path, change, match):
    state = microsoft_state(swin_model(11))
    for name, shape in change.items():
        state.pop(name, None)
        if shape:
            state[name] = torch.zeros(shape)
    path = tmp_path / "swin.pth"
    torch.save({"model": state}, path)
    assert str(path) in fails(match, create, SWIN, 5, path)


def test_other_numbers_than_finite_float32_are_refused(tmp_path):
    half = {k: v.astype(np.float16) for k, v in npz_arrays(**VIT_SHAPE, head="none").items()}
    path = write_npz(tmp_path / "half.npz", half)
    fails("cls is torch.float16, expected torch.float32.* and 6", create, VIT, 5, path)
    broken = npz_arrays(**VIT_SHAPE, head="none")
    broken["Transformer/encoder_norm/bias"][5] = np.nan
    path = write_npz(tmp_path / "nan.npz", broken)
    fails("encoder_norm/bias has values that are not finite", create, VIT, 5, path)


@pytest.mark.parametrize(
    "broken", ["blocks.1.attn.qkv.weight", "pos_embed", "blocks.3.mlp.fc2.bias"]
)
def test_a_loader_that_errs_is_caught(tmp_path, monkeypatch, original, broken):
    path = write_npz(tmp_path / "a.npz")
    right = VisionTransformer.load_pretrained

    def load(self, *args):
        right(self, *args)
        with torch.no_grad():
            tensor = self.get_parameter(broken)
            tensor.copy_(tensor.roll(1, 0 if tensor.shape[0] > 1 else 1))

    monkeypatch.setattr(VisionTransformer, "load_pretrained", load)
    fails("differs from the file after loading", create, VIT, 5, path)


def test_wrong_checkpoints_are_named(tmp_path, monkeypatch, original):
    orig = "found ViT/8 of width 64 and depth 4 at 32 px"
    want = f"expected {TINY} original ImageNet-21k for {VIT}"
    for head, found in (("augreg", weights.AUGREG), ("fine-tuned", weights.FINE_TUNED)):
        path = write_npz(tmp_path / "ViT-B_16.npz", head=head)
        assert fails("found", create, VIT, 5, path) == (f"{path}: {orig} {found} (.npz), {want}")
    path = write_npz(tmp_path / "deep.npz", depth=5)
    fails(f"{path}: found ViT/8 of width 64 and depth 5 .* {want}", create, VIT, 5, path)
    path = write_npz(tmp_path / "large.npz", tokens=65)
    fails(f"{path}: found .* at 64 px original .* {want}", create, VIT, 5, path)
    torch.save({"model": microsoft_state(swin_model(21841))}, tmp_path / "swin.pth")
    fails(f"found Swin of .* {want}", create, VIT, 5, tmp_path / "swin.pth")
    # A timm state dict with AugReg's head is not the original either.
    model = create(VIT, 21843, write_npz(tmp_path / "good.npz", head="zero head")).model
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    fails(f"found timm .* AugReg .*{want}", create, VIT, 5, tmp_path / "a.safetensors")
    state = model.state_dict() | {"pre_logits.fc.weight": torch.ones(64, 64)}
    save_file(state, tmp_path / "b.safetensors")
    assert create(VIT, 5, tmp_path / "b.safetensors").source == "safetensors original ImageNet-21k"
    # Without a head nothing tells; it is taken and said.
    path = write_npz(tmp_path / "headless.npz", head="none")
    assert create(VIT, 5, path).source.startswith("npz headless, cannot tell original from AugReg")

    monkeypatch.setitem(backbones._ORIGINS, "shapes", weights.AUGREG)
    backbones._pretrained.cache_clear()
    fails("found .* original .*expected .* AugReg", create, VIT, 5, tmp_path / "good.npz")

    monkeypatch.setitem(backbones._ORIGINS, "shapes", weights.SWIN_22K)
    path = tmp_path / "swin_base_patch4_window7_224_22k.pth"
    torch.save({"model": microsoft_state(swin_model(1000))}, path)
    fails(f"{path}: .*fine-tuned on ImageNet-1k .*expected .* ImageNet-22k", create, SWIN, 5, path)
    assert create(SWIN, 5, tmp_path / "swin.pth").source == "pth ImageNet-22k"

    # A tag that stands for something else takes no published look-alike.
    monkeypatch.delitem(backbones._ORIGINS, "shapes")
    backbones._pretrained.cache_clear()
    fails("found .* original .*expected .* weights for", create, VIT, 5, tmp_path / "good.npz")


def test_folder(tmp_path, original):
    fails(f"{tmp_path}: expected a {TINY} original .* found no files", create, VIT, 5, tmp_path)
    fails("nowhere: no such file", create, VIT, 5, tmp_path / "nowhere")
    write_npz(tmp_path / "ViT-B_16.npz", head="augreg")
    write_npz(tmp_path / "b.npz", head="fine-tuned")
    (tmp_path / "README.md").write_text("weights")
    text = fails(f"{tmp_path}: expected a {TINY} original ImageNet-21k", create, VIT, 5, tmp_path)
    assert f"ViT-B_16.npz: {TINY} AugReg ImageNet-21k (.npz)" in text
    assert "b.npz: " in text
    assert "README.md: not a weights file" in text
    write_npz(tmp_path / "headless.npz", head="none", seed=1)
    assert create(VIT, 5, tmp_path).source.startswith("npz headless")
    backbones._pretrained.cache_clear()
    exact = write_npz(tmp_path / "zz.npz", head="original", seed=2)
    got = create(VIT, 5, tmp_path)
    assert got.source == "npz original ImageNet-21k"
    assert got.fingerprint == create(VIT, 5, exact).fingerprint
    write_npz(tmp_path / "imagenet21k_ViT-B_16.npz", seed=3)
    backbones._pretrained.cache_clear()
    fails(f"{tmp_path}: expected exactly one .*zz.npz", create, VIT, 5, tmp_path)


# --- full size ------------------------------------------------------------------------------------


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
