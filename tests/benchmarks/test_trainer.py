"""The trainer against independent computations: schedules, decay groups, accumulation, seeds."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from rlrr_bench.benchmarks import trainer
from rlrr_bench.benchmarks.config import Recipe
from rlrr_bench.benchmarks.data import Split
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_have_no_accuracy(value):
    """argmax calls a NaN the first class; here the loss is still finite when it breaks."""

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            y = self.inner(x)
            return y if self.training else y.masked_fill(y == y.max(), value)

    with pytest.raises(Diverged, match="the logits of images to be scored are not finite"):
        run(SHORT, Breaks())


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
