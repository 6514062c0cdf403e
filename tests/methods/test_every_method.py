"""What must hold for every method in the registry on both kinds of backbone."""

import copy
import dataclasses
import typing

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from small_models import REFUSED, SUPPORTED, adapted, backbone, images, perturb

from rlrr_bench import methods
from rlrr_bench.methods import registry
from rlrr_bench.methods.anatomy import Anatomy

# Trainable parameters without the head, from the methods' papers and the authors' code.
BACKBONES = {
    "B": "vit_base_patch16_224.orig_in21k",
    "L": "vit_large_patch16_224.orig_in21k",
    "H": "vit_huge_patch14_224.orig_in21k",
    "Swin": "swin_base_patch4_window7_224.ms_in22k",
}
PARAMETERS = [  # method, options, then B, L, H, Swin-B; None: no reference
    ("full", {}, 85_798_656, 303_301_632, 630_764_800, 86_743_224),
    ("linear", {}, 0, 0, 0, 0),
    ("mlp", {"layers": 4}, 1_776_384, 3_154_944, 4_926_720, 3_154_944),
    ("partial", {"blocks": 1}, 7_089_408, 12_598_272, 19_680_000, 12_603_680),
    ("bias", {}, 102_912, 272_384, 453_120, 200_760),
    ("adapter", {"bottleneck": 12}, 230_544, 614_688, 1_024_384, 301_088),
    ("adapter", {"bottleneck": 3}, 64_548, None, None, None),
    ("adapter", {"bottleneck": 8}, 156_768, None, None, None),
    ("vpt", {"mode": "shallow", "prompts": 1}, 768, 1_024, 1_280, 128),
    ("vpt", {"mode": "deep", "prompts": 1}, 9_216, 24_576, 40_960, 12_032),
    ("vpt", {"mode": "deep", "prompts": 50}, 460_800, 1_228_800, 2_048_000, 601_600),
    ("lora", {"rank": 8}, 294_912, 786_432, 1_310_720, 385_024),
    ("lora", {"rank": 8, "targets": ["q", "v"]}, 294_912, 786_432, 1_310_720, 385_024),
    ("adaptformer", {"bottleneck": 8}, 156_768, 417_984, 696_576, 204_736),
    ("fact", {"mode": "tk", "rank": 16}, 30_976, None, None, None),
    ("fact", {"mode": "tk", "rank": 32}, 86_528, None, None, None),
    ("fact", {"mode": "tt", "rank": 4}, 8_448, None, None, None),
    ("fact", {"mode": "tt", "rank": 8}, 21_504, None, None, None),
    ("fact", {"mode": "tt", "rank": 16}, 61_440, None, None, None),
    ("ssf", {}, 205_824, 544_768, 906_240, 274_432),
    ("ssf", {"merging_norms": False}, 205_824, 544_768, 906_240, 267_264),
    ("arc", {"rank": 50}, 96_432, 153_952, 213_120, 218_464),
    ("arc", {"rank": 50, "sites": "attention"}, 48_216, None, None, None),
    ("rlrr", {}, 288_768, 765_952, 1_274_880, 358_144),
    ("rlrr", {"right": False}, 205_824, 544_768, 906_240, 248_064),
    ("rlrr", {"left": False}, 205_824, 544_768, 906_240, 270_336),
    ("rlrr", {"left": False, "residual": False}, 205_824, 544_768, 906_240, 270_336),
]

# Why a method of the paper cannot merge; None if it can. ARC has a case of its own below.
REASONS = dict.fromkeys(("full", "linear", "partial", "bias", "lora", "fact", "ssf", "rlrr")) | {
    "adapter": "the adapter is not linear",
    "adaptformer": "the parallel branch is not linear",
    "mlp": "the hidden layers before the classifier are not linear",
    "vpt": "prompts are extra tokens, no weights",
}
ARC_ON_SWIN = "on Swin the MLP site changes the residual stream, not the input of a layer"


def pytest_generate_tests(metafunc):
    """A test with the arguments kind, name, options runs for every method on every backbone."""
    if {"kind", "name", "options"} <= set(metafunc.fixturenames):
        metafunc.parametrize("kind, name, options", SUPPORTED)


@torch.no_grad()
def logits(model: torch.nn.Module, dtype=torch.float32) -> torch.Tensor:
    return model.eval()(images(dtype=dtype))


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, also those that a state dict leaves out."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def test_training_moves_what_is_trained_and_nothing_else(kind, name, options):
    """Two SGD steps; the gradients of the second must not be zero.

    Those of the first may be: a factor whose partner starts at zero (LoRA's A beside B = 0, FacT's
    U beside V = 0, ARC's U beside c = 0) has no gradient until its partner has moved.
    """
    model = adapted(kind, name, options, torch.float64).train()
    before = {key: value.detach().clone() for key, value in tensors(model).items()}
    trained = methods.delta(model).keys()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images(dtype=torch.float64)), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.abs().max() > 1e-9, f"{key} has no gradient"
        else:
            assert parameter.grad is None, key
    for key, value in tensors(model).items():
        assert torch.equal(value, before[key]) == (key not in trained), key


def test_parameter_count_of_small_models(kind, name, options):
    chosen = registry.options(name, options)
    expected = registry.module(name).count(Anatomy(backbone(kind)), chosen)
    model = adapted(kind, name, options)
    counts = methods.parameters(model)
    assert counts["peft"] == expected
    head = 5 * (model.num_features + 1)
    assert counts["head"] == head and counts["total"] == expected + head
    assert counts["total"] == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("size", BACKBONES)
def test_parameter_count_of_the_papers_backbones(size):
    with torch.device("meta"):
        plain = timm.create_model(BACKBONES[size], num_classes=10)
    for name, options, *numbers in PARAMETERS:
        expected = numbers[list(BACKBONES).index(size)]
        if expected is not None:
            model = copy.deepcopy(plain)
            formula = registry.module(name).count(Anatomy(model), registry.options(name, options))
            built = methods.parameters(methods.apply(name, model, **options))["peft"]
            assert (built, formula) == (expected, expected), (name, options)


def test_swin_has_no_fact():
    refused = {case.values[:2] for case in REFUSED}
    assert ("swin", "fact") in refused and ("vit", "fact") not in refused
    with pytest.raises(methods.MethodError, match="one width"):
        methods.apply("fact", backbone("swin"))


AT_PRETRAINED = [
    ("full", {}),
    ("linear", {}),
    ("bias", {}),
    ("partial", {}),
    ("lora", {}),
    ("adapter", {}),
    ("adapter", {"init": "zero", "placement": "houlsby"}),
    ("adaptformer", {}),
    ("fact", {}),
    ("fact", {"mode": "tt"}),
    ("fact", {"slices": "code"}),
    ("arc", {"sites": "attention"}),
    ("rlrr", {"init": "identity"}),
    ("rlrr", {"init": "identity", "residual": False}),
    ("rlrr", {"init": "identity", "left": False}),
]


@pytest.mark.parametrize("method, chosen", AT_PRETRAINED)
def test_starts_at_the_pretrained_function(method, chosen):
    for on in ("vit",) if method == "fact" else ("vit", "swin"):
        assert torch.equal(logits(adapted(on, method, chosen)), logits(backbone(on)))


def test_rlrr_starts_away_from_it_by_a_known_amount():
    torch.manual_seed(0)
    wide = timm.models.VisionTransformer(img_size=32, depth=1, num_classes=5)  # D = 768
    weights = {name: p.detach().clone() for name, p in wide.named_parameters()}
    block = methods.apply("rlrr", wide).blocks[0]
    for layer, path, expected in [
        (block.attn.qkv, "attn.qkv", 0.072),
        (block.attn.proj, "attn.proj", 0.072),
        (block.mlp.fc1, "mlp.fc1", 0.072),
        (block.mlp.fc2, "mlp.fc2", 0.036),
    ]:
        plain = weights[f"blocks.0.{path}.weight"]
        change = (layer.folded()["weight"] - plain).norm() / plain.norm()
        assert change.item() == pytest.approx(expected, abs=0.005), path


def test_ssf_and_arc_start_away_from_it_by_a_known_amount():
    torch.manual_seed(0)
    wide = timm.models.VisionTransformer(img_size=32, depth=1, num_classes=5)
    layer = methods.apply("ssf", copy.deepcopy(wide)).blocks[0].mlp.fc1
    for vector, mean in ((layer.scale, 1.0), (layer.shift, 0.0)):
        assert vector.mean().item() == pytest.approx(mean, abs=0.002)
        assert vector.std().item() == pytest.approx(0.02, abs=0.001)
    x = torch.randn(1000, 768)
    site = methods.apply("arc", wide).blocks[0].mlp.fc1.arc.eval()
    assert site.c.abs().max().item() <= (6 / 51) ** 0.5
    assert ((site(x) - x).norm() / x.norm()).item() == pytest.approx(0.095, abs=0.015)


class Zero(torch.nn.Module):
    def forward(self, x):
        return 0 * x


def test_branches_are_inside_the_drop_path(kind, name, options):
    """With every branch dropped, nothing in attention and MLP reaches the output."""
    model = perturb(adapted(kind, name, options))
    for block in [module for module in model.modules() if hasattr(module, "drop_path2")]:
        block.drop_path1 = block.drop_path2 = Zero()
    expected = logits(model)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".attn." in key or ".mlp." in key:
                parameter.add_(0.1)
    assert torch.equal(logits(model), expected)


def test_dropout_is_active_in_training_only(kind, name, options):
    model = perturb(adapted(kind, name, options))
    assert torch.equal(logits(model), logits(model))
    drops = [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    if getattr(registry.options(name, options), "dropout", 0):
        assert drops and not torch.equal(model.train()(images()), model(images()))
        seen = set()
        for drop in drops:
            drop.register_forward_hook(lambda module, given, output: seen.add(module))
        model(images())
        assert seen == set(drops)
    counts = (getattr(module, "track_running_stats", False) for module in model.modules())
    if not any(counts):  # BatchNorm is another function in training
        for drop in drops:
            drop.p = 0.0
        assert torch.equal(model.train()(images()), logits(model))


def test_delta_round_trip_is_exact(kind, name, options, tmp_path):
    model = perturb(adapted(kind, name, options))
    model.train()(images())  # moves running statistics
    trained = methods.delta(model)
    assert sum(t.numel() for t in trained.values()) < 2 * methods.parameters(model)["total"]
    safetensors.torch.save_file(trained, tmp_path / "delta.safetensors")
    other = adapted(kind, name, options, seed=7)
    methods.load_delta(other, safetensors.torch.load_file(tmp_path / "delta.safetensors"))
    assert torch.equal(logits(other), logits(model))


def test_state_dict_round_trip_is_exact(kind, name, options):
    model = perturb(adapted(kind, name, options))
    other = adapted(kind, name, options, seed=7)
    other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    assert torch.equal(logits(other), logits(model))
    assert model.state_dict().keys() >= {n for n, _ in model.named_parameters()}
    # timm's tensors keep their names
    assert model.state_dict().keys() >= backbone(kind).state_dict().keys()


def test_merged_equals_unmerged_or_is_refused(kind, name, options):
    """A method that says why it cannot merge is refused with that; any other one merges exactly."""
    model = adapted(kind, name, options)
    reason = methods.cannot_merge(model)
    if reason is not None:
        with pytest.raises(methods.CannotMerge) as error:
            methods.merge(model)
        assert str(error.value) == f"{name} cannot be merged: {reason}"
        assert reason.strip() and "\n" not in reason
        return
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        model = perturb(adapted(kind, name, options, dtype))
        expected = logits(model, dtype)
        plain = methods.merge(model)
        assert torch.equal(logits(model, dtype), expected)  # the model itself is as it was
        assert apart(logits(plain, dtype), expected) < tolerance
        timms = backbone(kind, dtype)
        assert {type(m) for m in plain.modules()} <= {type(m) for m in timms.modules()}
        timms.load_state_dict(plain.state_dict(), strict=True)
        assert torch.equal(logits(timms, dtype), logits(plain, dtype))


def test_the_papers_methods_merge_where_they_should():
    """What is known of these methods, whatever their files say; a new method needs no line here."""
    for case in SUPPORTED:
        kind, name, options = case.values
        if name == "arc":
            both = options.get("sites") != "attention"
            expected = ARC_ON_SWIN if kind == "swin" and both else None
        elif name in REASONS:
            expected = REASONS[name]
        else:
            continue
        assert methods.cannot_merge(adapted(kind, name, options)) == expected, case.id


def test_deepcopy_is_independent(kind, name, options):
    model = adapted(kind, name, options)
    other = copy.deepcopy(model)
    expected = logits(model)
    assert torch.equal(logits(other), expected)
    perturb(other)
    assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(other), expected)
    mine = {p.data_ptr() for p in model.parameters()}
    assert mine.isdisjoint(p.data_ptr() for p in other.parameters())


def test_autocast(kind, name, options):
    model = perturb(adapted(kind, name, options)).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(images()).float(), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("method", methods.names())
def test_options_read_from_source_are_the_modules_own(method):
    imported = getattr(registry.module(method), "Options", None)
    read = type(registry.options(method))
    if imported is None:
        assert not dataclasses.fields(read)
        return
    assert repr(read()) == repr(imported())
    assert typing.get_type_hints(read) == typing.get_type_hints(imported)
    for cls in (read, imported):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cls(), dataclasses.fields(cls)[0].name, None)


@pytest.mark.parametrize(
    "case", [("vit", "rlrr", {}), ("vit", "fact", {}), ("swin", "vpt", {"mode": "shallow"})]
)
@pytest.mark.slow
def test_torch_compile(case):
    model = perturb(adapted(*case))
    expected = logits(model)
    compiled = torch.compile(model, backend="aot_eager")
    output = compiled(images())
    assert apart(output.detach(), expected) < 1e-5
    output.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    torch.compiler.reset()
