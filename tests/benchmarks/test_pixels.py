"""Crops, erasing, mixing and averaged weights, against timm, torchvision and hand counts."""

import dataclasses
import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import Mixup
from torchvision.transforms import v2

from rlrr_bench import methods
from rlrr_bench.benchmarks import trainer
from rlrr_bench.benchmarks.config import Recipe
from rlrr_bench.benchmarks.data import Split
from rlrr_bench.benchmarks.demo import models  # noqa: F401  registers the demo's backbones
from rlrr_bench.benchmarks.pixels import Feed, Mixing, Pixels, random_box, resized
from rlrr_bench.benchmarks.trainer import Procedure

CPU = torch.device("cpu")
PLAIN = Pixels((0.0,) * 3, (1.0,) * 3)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(count: int, height: int, width: int) -> np.ndarray:
    """Images whose red is the row and green the column."""
    images = np.zeros((count, height, width, 3), dtype=np.uint8)
    images[..., 0] = np.arange(height)[:, None]
    images[..., 1] = np.arange(width)
    return images


def test_random_crops_are_windows_at_every_place():
    pixels = dataclasses.replace(PLAIN, crop="random", size=8)
    seen = Feed(coordinates(400, 10, 11), pixels, CPU)(torch.arange(400), draw()) * 255
    tops, lefts = seen[:, 0, 0, 0].round().long(), seen[:, 1, 0, 0].round().long()
    assert seen.shape == (400, 3, 8, 8)
    rows = torch.arange(8).view(1, 8, 1) + tops.view(-1, 1, 1)
    assert torch.equal(seen[:, 0].round().long(), rows.expand(-1, -1, 8))
    assert sorted(set(tops.tolist())) == [0, 1, 2] and sorted(set(lefts.tolist())) == [0, 1, 2, 3]
    assert tops.bincount().min() > 100 and lefts.bincount().min() > 70


def test_where_images_are_kept_changes_nothing():
    """Held on the device, read batch by batch, or each of its own size: the same pixels."""
    images = np.random.default_rng(0).integers(0, 256, (12, 20, 24, 3), dtype=np.uint8)
    for crop in ("none", "random", "rrc"):
        pixels = dataclasses.replace(PLAIN, hflip=True, crop=crop, size=16)
        feed = Feed(images, pixels, CPU)
        assert feed.held is not None
        seen = feed(torch.tensor([3, 1, 7]), draw())
        feed.held = None
        assert torch.equal(feed(torch.tensor([3, 1, 7]), draw()), seen)
        assert not torch.equal(feed(torch.tensor([3, 1, 7]), draw(1)), seen)


def test_boxes_are_those_of_random_resized_crops():
    """Area 8 to 100 %, aspect 3/4 to 4/3, and the same distribution as torchvision draws."""
    generator = draw()
    ours = np.array([random_box(60, 90, generator) for _ in range(2000)])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= 60).all() and (ours[:, 1] + ours[:, 3] <= 90).all()
    area, aspect = ours[:, 2] * ours[:, 3] / 5400, ours[:, 3] / ours[:, 2]
    assert 0.07 < area.min() < 0.1 and area.max() > 0.8
    assert 0.7 < aspect.min() < 0.8 and 1.27 < aspect.max() < 1.4
    torch.manual_seed(0)
    image = torch.zeros(3, 60, 90)
    theirs = [v2.RandomResizedCrop(8).make_params([image]) for _ in range(2000)]
    expected = np.array([[p[k] for k in ("top", "left", "height", "width")] for p in theirs])
    np.testing.assert_allclose(ours.mean(0), expected.mean(0), rtol=0.06)
    np.testing.assert_allclose(ours.std(0), expected.std(0), rtol=0.06)
    assert random_box(10, 200, draw())[2:] == (10, 13)  # nothing fits: the middle, at 4/3


@pytest.mark.parametrize("filters", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(50, 31), (9, 14), (24, 24), (1, 300), (131, 7)])
def test_resizing_on_the_device_is_pillows_bit_for_bit(filters, shape):
    method = getattr(Image.Resampling, filters.upper())
    for seed in range(5):
        image = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
        image = image // 255 * 255 if seed == 0 else image  # extremes overshoot most
        rows_first = Image.fromarray(image).resize((24, shape[0]), method)
        expected = np.asarray(rows_first.resize((24, 24), method))
        found = resized(torch.from_numpy(image).permute(2, 0, 1), 24, filters).permute(1, 2, 0)
        assert np.array_equal(found.numpy(), expected)


def test_erasing_fills_about_a_quarter_of_the_images_with_noise():
    mixing = Mixing(Recipe(erasing=0.25), 4, 0, CPU)
    mixing.start(0)
    x, y = mixing(torch.ones(400, 3, 16, 16), torch.zeros(400, dtype=torch.long))
    touched = (x != 1).flatten(1).any(1)
    assert 70 < touched.sum() < 130 and y.ndim == 1
    share = (x[touched] != 1).float().mean((1, 2, 3))
    assert share.min() > 0.01 and share.max() < 0.36


def test_mixing_is_timms_and_each_epoch_has_its_own():
    x, y = torch.rand(8, 3, 16, 16), torch.arange(8) % 4
    mixing = Mixing(Recipe(mixup=0.8, cutmix=1.0), 4, 3, CPU)
    mixing.start(2)
    found, shares = mixing(x.clone(), y)
    random.seed(3_000_011)
    np.random.seed(3_000_011)
    expected, soft = Mixup(0.8, 1.0, label_smoothing=0.0, num_classes=4)(x.clone(), y)
    assert torch.equal(found, expected) and torch.equal(shares, soft)
    assert torch.allclose(shares.sum(1), torch.ones(8))
    mixing.start(3)
    assert not torch.equal(mixing(x.clone(), y)[0], expected)
    odd, shares = mixing(x[:3].clone(), y[:3])
    assert odd.shape[0] == shares.shape[0] == 4
    plain = Mixing(Recipe(), 4, 0, CPU)(x, y)
    assert plain[0] is x and plain[1] is y


def test_smoothing_soft_labels_is_timms_smoothing():
    logits, y = torch.randn(4, 5), torch.arange(4)
    plain = Mixup(0.8, label_smoothing=0.0, num_classes=5)
    smooth = Mixup(0.8, label_smoothing=0.1, num_classes=5)
    np.random.seed(0)
    _, soft = plain(torch.rand(4, 3, 8, 8), y)
    np.random.seed(0)
    _, expected = smooth(torch.rand(4, 3, 8, 8), y)
    ours = torch.nn.functional.cross_entropy(logits, soft, label_smoothing=0.1)
    timms = torch.nn.functional.cross_entropy(logits, expected)
    torch.testing.assert_close(ours, timms)


def split(count: int = 24) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    return Split(images, np.arange(count) % 3, "none", "png")


def train(method: str, recipe: Recipe, **more):
    torch.manual_seed(0)
    model = timm.create_model("vit_demo_patch8_32.shapes", num_classes=3)
    methods.apply(method, model)
    pixels = Pixels((0.5,) * 3, (0.5,) * 3, True, recipe.crop, 32)
    test = dataclasses.replace(split(), images=split().images[:, 4:36, 4:36])
    how = Procedure(**more)
    outcome = trainer.train(model, split(), test, recipe=recipe, pixels=pixels, seed=0, how=how)
    return model, outcome


AUGMENTED = Recipe(
    epochs=2,
    warmup_epochs=0,
    batch_size=7,
    resize="squash256",
    crop="random",
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
    erasing=0.25,
)


@pytest.mark.parametrize("method", methods.names())
def test_every_method_trains_with_everything_on(method):
    """Twice the same bits, and the averaged weights are scored and kept."""
    recipe = dataclasses.replace(AUGMENTED, ema=0.9)
    model, outcome = train(method, recipe)
    again, repeated = train(method, recipe)
    assert outcome.curve == repeated.curve
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_averaged_weights_by_hand():
    """e <- d e + (1 - d) w after every step; the weights that are trained are not touched."""
    recipe = Recipe(epochs=3, warmup_epochs=0, batch_size=24, crop="random", lr=0.01)
    heads = []

    def watch(number):
        def on_epoch(*_):
            heads[number].append(watched[0].head.weight.detach().clone())

        return on_epoch

    watched = []
    original = timm.create_model
    for number, decay in enumerate((0.0, 0.5)):
        heads.append([])
        watched.clear()

        def create(*args, **options):
            watched.append(original(*args, **options))
            return watched[0]

        timm.create_model, kept = create, timm.create_model
        try:
            model, _ = train(
                "linear", dataclasses.replace(recipe, ema=decay), on_epoch=watch(number)
            )
        finally:
            timm.create_model = kept
        if number == 0:
            torch.manual_seed(0)
            first = original("vit_demo_patch8_32.shapes", num_classes=3).head.weight.detach()
    assert all(torch.equal(a, b) for a, b in zip(*heads, strict=True))
    average = first
    for head in heads[0]:
        average = 0.5 * average + 0.5 * head
    torch.testing.assert_close(model.head.weight.detach(), average)


def test_micro_batches_see_the_same_mixture():
    recipe = dataclasses.replace(AUGMENTED, batch_size=8, epochs=1)
    whole, first = train("linear", recipe)
    parts, second = train("linear", recipe, micro_batch=3)
    torch.testing.assert_close(whole.head.weight, parts.head.weight, rtol=1e-3, atol=1e-4)
    assert first.curve[0]["loss"] == pytest.approx(second.curve[0]["loss"], rel=1e-4)
