"""The trainer against independent computations: schedules, decay groups, accumulation, seeds."""

import dataclasses
import math

import numpy as np
import pytest
import timm
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from rlrr_bench import methods
from rlrr_bench.benchmarks import recipes, tasks, trainer
from rlrr_bench.benchmarks.config import Recipe
from rlrr_bench.benchmarks.data import Split
from rlrr_bench.benchmarks.optimization import learning_rate, make_optimizer
from rlrr_bench.benchmarks.pixels import Pixels
from rlrr_bench.benchmarks.trainer import Diverged, Procedure

HALF = Pixels((0.5,) * 3, (0.5,) * 3)
VIT_B = "vit_base_patch16_224.orig_in21k"


def noise(count: int = 32, classes: int = 4, seed: int = 0) -> Split:
    """Noise images whose brightness tells the class: learnable."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    images = rng.integers(0, 20, (count, 16, 16, 3)) + (labels * 60)[:, None, None, None]
    return Split(images.astype(np.uint8), labels.astype(np.int64), "none", "png")


def net(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 4)
    )


def dummy_optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("name", ["ssf", "rlrr"])
def test_epoch_cosine_is_timms_scheduler_as_the_authors_step_it(name):
    """SSF: epoch e runs at the scheduler's value for e; RLRR steps after the epoch: for e - 1."""
    task = tasks.get("vtab-1k", "cifar")
    recipe = recipes.resolve(name, name, VIT_B, task).recipe
    optimizer = dummy_optimizer(recipe.lr)
    timms = CosineLRScheduler(
        optimizer, t_initial=100, lr_min=1e-8, warmup_t=10, warmup_lr_init=1e-7, cycle_limit=1
    )
    rates = []
    for epoch in range(110):
        if name == "ssf":
            timms.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
        if name == "rlrr":
            timms.step(epoch)
    ours = [learning_rate(recipe, epoch) for epoch in range(110)]
    assert ours == pytest.approx(rates, rel=1e-12)
    if name == "rlrr":
        assert ours[0] == ours[1] == 1e-7
        assert max(ours) == ours[11] == pytest.approx(0.9755 * recipe.lr, rel=1e-4)
        assert ours[101:] == [1e-8] * 9


def test_restarts_are_torchs():
    task = tasks.get("fgvc", "CUB_200_2011")
    recipe = recipes.resolve("rlrr", "rlrr", VIT_B, task).recipe
    assert recipe.schedule == "restarts"
    for factor in (1, 2):
        recipe = dataclasses.replace(recipe, restart_factor=factor)
        optimizer = dummy_optimizer(recipe.lr)
        torchs = CosineAnnealingWarmRestarts(optimizer, 5, factor, eta_min=recipe.min_lr)
        for epoch in range(60):
            expected = optimizer.param_groups[0]["lr"]
            assert learning_rate(recipe, epoch) == pytest.approx(expected, rel=1e-9, abs=1e-15)
            optimizer.step()
            torchs.step(epoch)  # with the number of the epoch that is over, as the published loop


def test_cosine_by_step_after_the_warm_up():
    """ARC: linear from 0 over ten epochs of steps, then a cosine over the rest."""
    recipe = Recipe(lr=0.01, epochs=100, warmup_lr=0.0, warmup_prefix=True, schedule_unit="step")
    steps = 32
    for i in (0, 1, 31, 32, 319, 320, 321, 2000, 3199):
        done, warm, total = i, 10 * steps, 100 * steps
        if done < warm:
            expected = 0.01 * done / warm
        else:
            expected = 0.005 * (1 + math.cos(math.pi * (done - warm) / (total - warm)))
        assert learning_rate(recipe, i // steps, (i % steps) / steps) == pytest.approx(expected)


def decayed_names(recipe: Recipe, model: nn.Module) -> set[str]:
    optimizer = make_optimizer(model, recipe)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    return {name for name, p in model.named_parameters() if id(p) in decayed}


def rlrr_vit() -> nn.Module:
    from rlrr_bench.benchmarks.demo import models  # noqa: F401  registers the demo's ViT

    return timm.create_model("vit_demo_patch8_32.shapes", num_classes=3)


def test_decay_groups():
    """RLRR's code decays scales, head weight and the patch pair; SSF's only the head weight."""
    recipe = recipes.resolve("rlrr", "rlrr", VIT_B, tasks.get("vtab-1k", "cifar")).recipe
    model = methods.apply("rlrr", rlrr_vit())
    decayed = decayed_names(recipe, model)
    endings = {name.split(".")[-1] for name in decayed}
    assert endings == {"left", "right", "weight", "scale", "shift"}
    rest = {n for n in decayed if n.endswith((".weight", ".scale", ".shift"))}
    assert rest == {"head.weight", "patch_embed.proj.scale", "patch_embed.proj.shift"}
    recipe = recipes.resolve("ssf", "ssf", VIT_B, tasks.get("vtab-1k", "cifar")).recipe
    assert decayed_names(recipe, methods.apply("ssf", rlrr_vit())) == {"head.weight"}
    everything = {n for n, p in model.named_parameters() if p.requires_grad}
    assert decayed_names(Recipe(), model) == everything


def run(recipe: Recipe, model: nn.Module | None = None, seed: int = 0, **more):
    model = model or net()
    torch.manual_seed(seed)
    how = Procedure(**more)
    outcome = trainer.train(
        model, noise(), noise(seed=1), recipe=recipe, pixels=HALF, seed=seed, how=how
    )
    return outcome, {k: v.clone() for k, v in model.state_dict().items()}


SHORT = Recipe(epochs=3, warmup_epochs=0, batch_size=8, lr=0.01)


def test_one_epoch_of_sgd_by_hand():
    """Order of the images, loss, weight decay and rate of a plain loop."""
    recipe = dataclasses.replace(SHORT, optimizer="sgd", epochs=1, weight_decay=0.1)
    _, found = run(recipe)
    model, split = net(), noise()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    for batch in order.split(8):
        x = torch.from_numpy(split.images[batch].transpose(0, 3, 1, 2)).float() / 255
        loss = nn.functional.cross_entropy(
            model((x - 0.5) / 0.5), torch.from_numpy(split.labels[batch])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)


def test_it_learns():
    outcome, _ = run(dataclasses.replace(SHORT, epochs=30, lr=1e-3))
    assert outcome.top1 > 50 and outcome.curve[-1]["loss"] < outcome.curve[0]["loss"] / 2
    assert outcome.images == 30 * 32


def test_same_seed_same_bits_other_seed_others():
    first, one = run(SHORT, net(dropout=0.5))
    again, two = run(SHORT, net(dropout=0.5))
    _other, three = run(SHORT, net(dropout=0.5), seed=1)
    assert first.curve == again.curve
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


def test_accumulated_micro_batches_give_the_same_steps():
    _, whole = run(SHORT)
    for micro in (1, 3):
        _, parts = run(SHORT, micro_batch=micro)
        for name in whole:
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-5)


def test_scoring_more_often_changes_nothing_but_the_curve():
    once, weights = run(SHORT, net(dropout=0.5))
    often, same = run(SHORT, net(dropout=0.5), eval_every=1)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert ["top1" in point for point in once.curve] == [False, False, True]
    assert [point["top1"] for point in often.curve][-1] == once.top1 == often.top1
    assert len(often.curve) == 3


def test_a_partial_batch_is_kept_or_dropped():
    assert run(dataclasses.replace(SHORT, batch_size=12))[0].images == 3 * 32
    assert run(dataclasses.replace(SHORT, batch_size=12, drop_last=True))[0].images == 3 * 24


def test_a_loss_that_is_no_number_stops_the_run():
    with pytest.raises(Diverged, match=r"loss is (nan|inf) in epoch 1 of 3 \(lr 1e\+30\)"):
        run(dataclasses.replace(SHORT, lr=1e30, optimizer="sgd"))


def test_gradients_are_clipped():
    recipe = dataclasses.replace(
        SHORT, optimizer="sgd", momentum=0.0, epochs=1, batch_size=32, lr=1.0, weight_decay=0.0
    )
    before = net().state_dict()
    _, after = run(dataclasses.replace(recipe, clip_grad=0.01))
    moved = torch.cat([(after[k] - before[k]).flatten() for k in before]).norm().item()
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_flips_mirror_about_half_of_the_images_and_only_in_training():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4).repeat(200, 1, 1, 1)
    plain = Pixels((0.0,) * 3, (1.0,) * 3)
    pixels = dataclasses.replace(plain, hflip=True)
    seen = pixels(images, pixels.flips(len(images), torch.Generator().manual_seed(0)))
    straight = plain(images)
    flipped = (seen == straight.flip(-1)).flatten(1).all(1)
    kept = (seen == straight).flatten(1).all(1)
    assert bool((flipped ^ kept).all()) and 150 < int(flipped.sum()) < 250
    assert torch.equal(pixels(images), straight)
    assert plain.flips(len(images), torch.Generator()) is None
    assert straight.max() == images.max().item() / 255
