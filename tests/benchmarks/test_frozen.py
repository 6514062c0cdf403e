"""Features of the frozen part, kept: against the plain path, and where the cut is."""

import numpy as np
import pytest
import torch
from small_models import SUPPORTED, adapted, images, perturb

from rlrr_bench.benchmarks import frozen, trainer
from rlrr_bench.benchmarks.config import Recipe
from rlrr_bench.benchmarks.data import Split
from rlrr_bench.benchmarks.pixels import Feed, Pixels
from rlrr_bench.benchmarks.trainer import Procedure
from rlrr_bench.methods.anatomy import forward_steps, set_drop_path, set_dropout

CPU = torch.device("cpu")
PIXELS = Pixels((0.5,) * 3, (0.5,) * 3)
FLIPPED = Pixels((0.5,) * 3, (0.5,) * 3, hflip=True)


def data(seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    return Split(pixels, rng.integers(0, 5, 24), "none", "png")


def train(kind: str, name: str, options: dict, plain: bool, pixels: Pixels = FLIPPED):
    recipe = Recipe(optimizer="sgd", lr=1e-2, epochs=3, warmup_epochs=0, batch_size=8)
    model = perturb(adapted(kind, name, options))
    torch.manual_seed(0)
    how = Procedure(plain=plain)
    outcome = trainer.train(model, data(), data(1), recipe=recipe, pixels=pixels, seed=0, how=how)
    return outcome, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("kind", "name", "options"), SUPPORTED)
def test_the_steps_in_a_row_are_the_model(kind, name, options):
    model, x = perturb(adapted(kind, name, options)), images()
    chain = x
    for step in forward_steps(model):
        chain = step.run(chain)
    assert torch.equal(chain, model(x))
    inside = {id(p) for s in forward_steps(model) for m in s.modules for p in m.parameters()}
    inside |= {id(p) for step in forward_steps(model) for p in step.parameters}
    outside = [n for n, p in model.named_parameters() if id(p) not in inside]
    assert all(n.startswith("shared.") for n in outside)


CASES = [
    ("linear", {}, True),
    ("mlp", {"layers": 3}, True),
    ("partial", {"blocks": 1}, True),
    ("rlrr", {"layers": "last:1", "outside_blocks": False}, True),
    ("rlrr", {}, False),
    ("lora", {}, False),
    ("vpt", {"mode": "shallow"}, False),
    ("bias", {}, False),
    ("full", {}, False),
]


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize(("name", "options", "cut"), CASES)
@pytest.mark.parametrize("pixels", [PIXELS, FLIPPED], ids=["straight", "flipped"])
def test_kept_features_train_as_the_plain_path_does(kind, name, options, cut, pixels):
    fast, tensors = train(kind, name, options, plain=False, pixels=pixels)
    plain, expected = train(kind, name, options, plain=True, pixels=pixels)
    assert ("frozen features" in fast.fast_paths) == cut
    assert plain.fast_paths == []
    for ours, theirs in zip(fast.curve, plain.curve, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    for key in expected:
        torch.testing.assert_close(tensors[key], expected[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_features_are_the_models_own_to_rounding_in_float64(kind, monkeypatch):
    monkeypatch.setattr(Pixels, "__call__", _doubled(Pixels.__call__))
    model = adapted(kind, "partial", {"blocks": 1}, dtype=torch.float64)
    feed = Feed(data().images, FLIPPED, CPU)
    kept = frozen.cut(model, feed, 5, trainer.autocast(Recipe(), CPU))
    batch, draws = torch.tensor([3, 23, 3, 0]), torch.Generator()
    features = kept(batch, draws.manual_seed(1))
    shown = feed(batch, draws.manual_seed(1))
    torch.testing.assert_close(kept.rest(features), model(shown), rtol=1e-12, atol=1e-12)
    assert kept.features.shape[:2] == (2, 24)


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("name", ["linear", "partial"])
def test_features_kept_in_bf16_train_as_the_plain_path_does(kind, name, monkeypatch):
    """What a GPU does, on this device: features come from autocast and go back into it."""
    bf16 = torch.autocast("cpu", torch.bfloat16)
    monkeypatch.setattr(trainer, "autocast", lambda recipe, device: bf16)
    options = {"blocks": 1} if name == "partial" else {}
    model = adapted(kind, name, options)
    feed = Feed(data().images, FLIPPED, CPU)
    kept = frozen.cut(model, feed, 4, bf16)
    batch, draws = torch.tensor([3, 23, 3, 0]), torch.Generator()
    features = kept(batch, draws.manual_seed(1))
    with bf16:
        shown = model(feed(batch, draws.manual_seed(1)))
        assert torch.equal(kept.rest(features), shown)
    fast, tensors = train(kind, name, options, plain=False)
    plain, expected = train(kind, name, options, plain=True)
    assert "frozen features" in fast.fast_paths and plain.fast_paths == []
    for key in expected:
        torch.testing.assert_close(tensors[key], expected[key], rtol=2**-8, atol=1e-3, msg=key)


def _doubled(call):
    return lambda *given: call(*given).double()


def cut_of(model, pixels: Pixels = PIXELS) -> frozen.FrozenFeed | None:
    return frozen.cut(model, Feed(data().images, pixels, CPU), 8, trainer.autocast(Recipe(), CPU))


def test_what_is_random_is_not_frozen():
    model = adapted("vit", "partial", {"blocks": 1})
    steps = forward_steps(model)
    blocks = [i for i, step in enumerate(steps) if step.block]
    first_live = next(i for i, step in enumerate(steps) if not step.fixed)
    assert first_live == blocks[2]
    set_drop_path(model, 0.2)  # 0, 0.1, 0.2
    assert next(i for i, step in enumerate(steps) if not step.fixed) == blocks[1]
    set_dropout(model, 0.1)  # of the embedding too
    assert cut_of(model) is None


def test_a_hooked_or_patched_model_is_not_cut():
    hooked = adapted("vit", "linear", {})
    hooked.blocks[1].register_forward_hook(lambda module, inputs, output: output + 1)
    cut = cut_of(hooked)
    assert cut is not None and cut.first(torch.zeros(1, 3, 32, 32)).dim() == 3  # below the hook
    patched = adapted("vit", "linear", {})
    real = patched.forward
    patched.forward = lambda x: real(x) + 1
    assert cut_of(patched) is None


def test_features_that_do_not_fit_are_not_kept(monkeypatch):
    assert cut_of(adapted("vit", "linear", {})) is not None
    monkeypatch.setattr(frozen, "room", lambda device: 24 * 32 * 4 - 1)
    assert cut_of(adapted("vit", "linear", {})) is None
