"""Weights files: told apart by content; damaged, wrong and malicious ones refused."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
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
from rlrr_bench.benchmarks.backbones import create, identify

pytestmark = pytest.mark.usefixtures("fresh_cache")

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
