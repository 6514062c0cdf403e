"""Every recipe does, step for step, what the published code does (published.py).

Rates of all steps, steps an epoch, optimizers with the decay of every tensor, images, drop rates
and what is mixed, for every recipe, benchmark and task. test_trajectories.py has the whole of it.
"""

import copy
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import published
import pytest
import timm
import torch
from PIL import Image
from published import loop_of
from samples import write_benchmark
from small_models import backbone
from timm.data.mixup import FastCollateMixup
from timm.data.random_erasing import RandomErasing
from torch import nn
from torchvision.transforms import v2

from rlrr_bench import methods
from rlrr_bench.benchmarks import data, optimization, recipes, run, tasks, trainer
from rlrr_bench.benchmarks.data import Split
from rlrr_bench.benchmarks.demo import models  # noqa: F401  registers the demo's backbones
from rlrr_bench.benchmarks.pixels import Feed, Mixing, Pixels
from rlrr_bench.methods.anatomy import set_drop_path
from rlrr_bench.paper_tables import specs

VIT, SWIN = "vit_base_patch16_224.orig_in21k", "swin_base_patch4_window7_224.ms_in22k"
DEMO_VIT, DEMO_SWIN = "vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes"
BENCHMARKS = ("vtab-1k", "fgvc")
OUR_OWN = {"ours", "demo"}  # no published loop


def rows_of(recipe: str) -> list[specs.Row]:
    """The rows of all tables that are trained with a recipe, one a method, options and backbone."""
    rows: dict[str, specs.Row] = {}
    for name in specs.every():
        for row in specs.spec(name).rows.values():
            if row.recipe == recipe:
                rows.setdefault(str((row.method, row.options, "swin" in row.backbone)), row)
    return list(rows.values())


def cases() -> list[tuple[str, str, str, str]]:
    """(recipe, method, backbone, benchmark) of every row; a recipe that no row uses has its own."""
    own = {"fact_tt": "fact", "vpt_deep_swin": "vpt", "vpt_swin": "vpt"}
    found = {}
    for recipe in sorted(published.PUBLISHED):
        rows = [(r.method, r.backbone) for r in rows_of(recipe)]
        for method, tag in rows or [(own[recipe], VIT)]:
            for benchmark in BENCHMARKS:
                if loop_of(recipe, benchmark, "cifar", method, "swin" in tag):
                    found[recipe, method, tag, benchmark] = None
    return list(found)


def resolve(recipe: str, method: str, tag: str, benchmark: str, task: str) -> recipes.Resolved:
    return recipes.resolve(recipe, method, tag, tasks.get(benchmark, task))


def test_every_recipe_has_a_replay_or_is_our_own():
    assert set(published.PUBLISHED) | OUR_OWN == set(recipes.names())
    assert {case[0] for case in cases()} == set(published.PUBLISHED)


def one_weight(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("case", cases(), ids=lambda case: "-".join((case[0], case[1], case[3])))
def test_rates_of_all_steps(case):
    recipe, method, tag, benchmark = case
    for task in tasks.benchmarks()[benchmark].values():
        found = resolve(recipe, method, tag, benchmark, task.name)
        r, loop = found.recipe, loop_of(recipe, benchmark, task.name, method, "swin" in tag)
        steps = loop.steps(task.sizes[loop.pool])
        seen = min(steps, 40)  # a by-step schedule is the same function whatever the steps
        optimizer, expected = one_weight(r.lr), []
        for rate in loop.rates(optimizer, seen):
            optimizer.step()
            expected.append(rate)
        ours = [
            optimization.learning_rate(r, epoch, step / seen)
            for epoch in range(r.epochs + r.cooldown_epochs)
            for step in range(seen)
        ]
        assert len(ours) == len(expected)
        # ARC's factor has a floor of 1e-6, which its last step alone would meet
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-6 * r.lr, err_msg=task.name)
        worst = np.abs(np.subtract(ours, expected)).max() / r.lr
        assert worst < (1e-6 if published.PUBLISHED[recipe] == "arc" else 1e-12), task.name


@pytest.mark.parametrize("case", cases(), ids=lambda case: "-".join((case[0], case[1], case[3])))
def test_settings_of_the_loop(case):
    recipe, method, tag, benchmark = case
    for task in tasks.benchmarks()[benchmark].values():
        found = resolve(recipe, method, tag, benchmark, task.name)
        r, loop = found.recipe, loop_of(recipe, benchmark, task.name, method, "swin" in tag)
        assert (r.batch_size, r.drop_last) == (loop.batch_size, loop.drop_last), task.name
        assert found.train_split == loop.pool
        assert (r.clip_grad, r.label_smoothing, r.erasing) == (
            loop.clip,
            loop.smoothing,
            loop.erasing,
        )
        assert (r.mixup, r.cutmix, r.ema) == (loop.mixup, loop.cutmix, loop.ema), task.name
        assert r.hflip == any("Flip" in type(step).__name__ for step in loop.train), task.name
        assert (r.amp, r.mix_batch) == (loop.amp, loop.mixed_by)
        pixels = run._pixels(r, like(tag))
        assert (tuple(pixels.mean), tuple(pixels.std)) == (loop.mean, loop.std)
        resized = [step for step in loop.train if type(step).__name__ == "Resize"]
        filters = {str(v2.InterpolationMode(step.interpolation).value) for step in resized} or {
            "random"
        }  # timm's RRC draws
        assert filters == {"bicubic" if r.interpolation == "backbone" else r.interpolation}


def like(tag: str) -> run.backbones.Backbone:
    """What the checkpoint of a tag says of its input, with no model."""
    cfg = timm.get_pretrained_cfg(tag)
    return run.backbones.Backbone(
        tag=tag,
        pool="token",
        model=nn.Identity(),
        mean=cfg.mean,
        std=cfg.std,
        input_size=224,
        interpolation=cfg.interpolation,
        fingerprint="",
        source="",
    )


class Net(nn.Module):
    """One weight, to count steps."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    "recipe, method, task",
    [
        ("rlrr", "rlrr", "cifar"),
        ("rlrr", "rlrr", "CUB_200_2011"),
        ("rlrr_aug", "rlrr", "StanfordDogs"),
        ("rlrr_aug", "rlrr", "NABirds"),
        ("arc", "arc", "cifar"),
        ("ssf", "ssf", "cifar"),
        ("fact_tk", "fact", "cifar"),
        ("noah", "lora", "cifar"),
        ("vpt_deep", "vpt", "cifar"),
        ("vpt_deep", "vpt", "sun397"),
        ("vpt", "full", "cifar"),
    ],
)
def test_the_trainer_takes_the_published_number_of_steps(recipe, method, task, monkeypatch):
    benchmark = "vtab-1k" if task in tasks.benchmarks()["vtab-1k"] else "fgvc"
    r = resolve(recipe, method, VIT, benchmark, task).recipe
    loop = loop_of(recipe, benchmark, task, method)
    count = tasks.get(benchmark, task).sizes[loop.pool]
    r = replace(r, epochs=1, cooldown_epochs=0, warmup_epochs=0, mixup=0.0, cutmix=0.0, crop="none")
    r = replace(r, ema=0.0, resize="squash", no_decay="none", hflip=False)
    taken = []
    made = trainer.make_optimizer

    def counted(*given):
        optimizer = made(*given)
        optimizer.register_step_post_hook(lambda *_: taken.append(1))
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", counted)
    images = np.zeros((count, 1, 1, 3), dtype=np.uint8)
    split = Split(images, np.zeros(count, dtype=np.int64), "none", "png")
    few = Split(images[:2], split.labels[:2], "none", "png")
    trainer.train(Net(), split, few, recipe=r, pixels=Pixels((0.5,) * 3, (0.5,) * 3), seed=0)
    assert len(taken) == loop.steps(count)


# --- optimizers -----------------------------------------------------------------------------------


def grouped() -> Iterator[tuple]:
    for recipe in sorted(published.PUBLISHED):
        for row in rows_of(recipe):
            kind = "swin" if "swin" in row.backbone else "vit"
            if loop_of(recipe, "vtab-1k", "cifar", row.method, kind == "swin") is None:
                continue
            yield pytest.param(recipe, row, kind, id=f"{recipe}-{row.key}-{kind}")


@pytest.mark.parametrize("recipe, row, kind", list(grouped()))
def test_optimizer_and_decay_of_every_tensor(recipe, row, kind):
    options = {key: value for key, value in row.options.items() if key != "layers"}
    model = methods.apply(row.method, backbone(kind), **options)
    r = resolve(recipe, row.method, row.backbone, "vtab-1k", "cifar").recipe
    r = replace(r, weight_decay=r.weight_decay or 0.125)  # ARC's is 0, which would hide the groups
    loop = loop_of(recipe, "vtab-1k", "cifar", row.method, kind == "swin")
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    theirs = loop.optimizer([(loop.rename(n), p) for n, p in trained], r.lr, r.weight_decay)
    ours = optimization.make_optimizer(model, r)
    names = {id(p): name for name, p in trained}

    def decays(optimizer: torch.optim.Optimizer) -> dict[str, float]:
        groups = optimizer.param_groups
        return {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}

    assert decays(ours) == decays(theirs) and len(decays(ours)) == len(trained)
    assert isinstance(ours, torch.optim.SGD) == isinstance(theirs, torch.optim.SGD)
    for key in ("momentum",) if isinstance(ours, torch.optim.SGD) else ("betas", "eps"):
        (own,), (other,) = ({g[key] for g in o.param_groups} for o in (ours, theirs))
        assert own == other, key
    early = isinstance(theirs, published.EarlyAdamW)
    assert isinstance(ours, optimization.TransformersAdamW) == early


# --- models ---------------------------------------------------------------------------------------

HEADS = {  # whose loop: (mean, std) of the head's start, None: as torch starts a linear layer
    "vpt": ("fan_out", -4.59512),
    "fact": (None, None),
    "noah": (0.02, 0.0),
    "ssf": (0.02, 0.0),
    "arc": (0.0, 0.0),
    "rlrr": (0.0, 0.0),
    "rlrr_aug": (0.0, 0.0),
}


@pytest.mark.parametrize("recipe", sorted(published.PUBLISHED))
def test_head_at_the_start(recipe):
    tag = SWIN if "swin" in recipe else VIT
    r = resolve(recipe, "linear", tag, "vtab-1k", "cifar").recipe
    torch.manual_seed(0)
    head = nn.Linear(768, 400)
    run.init_head(head, r.head_init)
    std, bias = HEADS[published.PUBLISHED[recipe]]
    if recipe == "arc_swin":  # timm's start, which its script leaves
        std, bias = 0.02, 0.0
    if std is None:
        torch.manual_seed(0)
        nn.Linear(768, 400)  # the one above
        assert torch.equal(head.weight, nn.Linear(768, 400).weight)
        return
    std = (2 / 400) ** 0.5 if std == "fan_out" else std
    assert head.weight.std().item() == pytest.approx(std, rel=0.02, abs=1e-9)
    assert torch.allclose(head.bias, torch.full((400,), bias), atol=1e-5)


# recipe, method, backbone: drop rate of the last block, its kind, dropout in the backbone
DROPS = [
    ("rlrr", "rlrr", VIT, "svhn", 0.3, nn.Dropout, 0.0),
    ("rlrr", "rlrr", VIT, "NABirds", 0.3, nn.Dropout, 0.0),
    ("ssf", "ssf", VIT, "eurosat", 0.2, timm.layers.DropPath, 0.0),
    ("fact_tk", "fact", VIT, "cifar", 0.1, timm.layers.DropPath, 0.0),
    ("noah", "lora", VIT, "cifar", 0.1, timm.layers.DropPath, 0.0),
    ("arc", "arc", VIT, "cifar", 0.0, None, 0.0),
    ("arc_swin", "arc", SWIN, "cifar", 0.1, timm.layers.DropPath, 0.0),
    ("vpt", "full", VIT, "cifar", 0.0, None, 0.1),
    ("vpt_deep", "vpt", VIT, "cifar", 0.0, None, 0.0),
    ("vpt_swin", "full", SWIN, "cifar", 0.5, timm.layers.DropPath, 0.0),
]


@pytest.mark.parametrize("recipe, method, tag, task, rate, kind, dropout", DROPS)
def test_drop_rate_of_every_block(recipe, method, tag, task, rate, kind, dropout):
    benchmark = "fgvc" if task == "NABirds" else "vtab-1k"
    r = resolve(recipe, method, tag, benchmark, task).recipe
    assert r.dropout == dropout
    small = DEMO_SWIN if tag == SWIN else DEMO_VIT
    model = timm.create_model(small)
    set_drop_path(model, r.drop_path, r.drop_path_kind)
    blocks = [m for m in model.modules() if hasattr(m, "drop_path1")]
    for path in ("drop_path1", "drop_path2"):
        drops = [getattr(block, path) for block in blocks]
        found = [getattr(d, "drop_prob", getattr(d, "p", 0.0)) or 0.0 for d in drops]
        assert found == pytest.approx(published.drop_rates(small, rate))
        if rate:
            assert {type(d) for d in drops[1:]} == {kind}


def test_noahs_starts():
    """Truncated normal with std .02 for all weights, also LoRA's B; biases zero."""
    torch.manual_seed(0)
    wide = timm.create_model(DEMO_VIT, num_classes=3)
    lora = methods.apply("lora", copy.deepcopy(wide), init="noah", rank=32)
    adapter = methods.apply("adapter", copy.deepcopy(wide), init="noah", bottleneck=64)
    drawn = {n: p for n, p in lora.named_parameters() if "lora_" in n}
    assert len(drawn) == 2 * len(wide.blocks)
    layers = [m for block in adapter.blocks for m in block.mlp_adapter if isinstance(m, nn.Linear)]
    assert len(layers) == 2 * len(wide.blocks)
    for weight in [*drawn.values(), *(layer.weight for layer in layers)]:
        assert weight.std().item() == pytest.approx(0.02, rel=0.08)
        assert abs(weight.mean().item()) < 0.002
    assert not any(layer.bias.any() for layer in layers)
    plain = methods.apply("lora", copy.deepcopy(wide))
    assert not any(p.any() for n, p in plain.named_parameters() if "lora_B" in n)


# --- images ---------------------------------------------------------------------------------------

SEEN = [
    ("rlrr", "rlrr", VIT, "vtab-1k", "dtd"),
    ("arc_swin", "arc", SWIN, "vtab-1k", "cifar"),
    ("arc", "arc", VIT, "vtab-1k", "cifar"),
    ("ssf", "ssf", VIT, "vtab-1k", "cifar"),
    ("fact_tk", "fact", VIT, "vtab-1k", "cifar"),
    ("noah", "lora", VIT, "vtab-1k", "cifar"),
    ("rlrr", "rlrr", VIT, "fgvc", "CUB_200_2011"),
    ("rlrr_aug", "rlrr", VIT, "fgvc", "CUB_200_2011"),
    ("arc", "arc", VIT, "fgvc", "CUB_200_2011"),
    ("vpt_deep", "vpt", VIT, "fgvc", "CUB_200_2011"),
    ("ssf", "ssf", VIT, "fgvc", "CUB_200_2011"),
]
SMALLEST = {"vtab-1k": 0.004, "fgvc": 0.0008}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_benchmark(folder, "vtab-1k", ["dtd", "cifar"], SMALLEST["vtab-1k"], pixels=40)
    write_benchmark(folder, "fgvc", ["CUB_200_2011"], SMALLEST["fgvc"], pixels=270)
    return folder


@pytest.mark.parametrize("recipe, method, tag, benchmark, name", SEEN)
def test_first_batch_and_test_images(recipe, method, tag, benchmark, name, pictures):
    """Against torchvision on Pillow's images; random crops and flips are found by looking."""
    task = tasks.get(benchmark, name)
    found = resolve(recipe, method, tag, benchmark, name)
    r, loop = found.recipe, loop_of(recipe, benchmark, name, method, tag == SWIN)
    stand_in = like(tag)
    interpolation = stand_in.interpolation
    pixels = run._pixels(r, stand_in)
    for split, centre in ((found.train_split, False), ("test", True)):
        listing = data.read_list(pictures, task, split, smoke=True)
        files = zip(listing.names[:3], listing.labels[:3], strict=True)
        resize = r.resize_test if centre and r.resize_test != "same" else r.resize
        filters = interpolation if r.interpolation in ("backbone", "random") else r.interpolation
        view = data.View(224, resize, filters, centre)
        ours = data.open_split(pictures, task, split, view, cache=None, smoke=True)
        for i, (path, label) in enumerate(files):
            assert ours.labels[i] == label
            image = Image.open(listing.folder / path).convert("RGB")
            if centre:
                seen = pixels(trainer.to_device(ours.images[i : i + 1], torch.device("cpu")))[0]
                assert torch.allclose(seen, published.to_tensor(image, loop.test, loop), atol=1e-6)
                continue
            feed = Feed(ours.images, pixels, torch.device("cpu"))
            seen = feed(torch.tensor([i]), torch.Generator().manual_seed(0))[0]
            whole = [step for step in loop.train if type(step).__name__ == "Resize"]
            expected = published.to_tensor(image, whole, loop)
            if r.crop == "rrc":
                assert not whole and seen.shape == (3, 224, 224)
                continue
            windows = [
                expected[:, y : y + 224, x : x + 224]
                for y, x in itertools.product(
                    range(expected.shape[1] - 223), range(expected.shape[2] - 223)
                )
            ]
            either = [seen, seen.flip(-1)] if r.hflip else [seen]
            near = [w for w in windows for s in either if torch.allclose(w, s, atol=1e-6)]
            assert len(near) == 1, (len(windows), name)


def test_ssfs_batch_is_mixed_on_each_gpu_and_then_erased():
    """timm's own collation of uint8 images and its prefetching loader's erasing, GPU by GPU."""
    r = resolve("ssf", "ssf", VIT, "fgvc", "CUB_200_2011").recipe
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    labels = torch.arange(64) % 5

    def seed() -> None:
        random.seed(5 * 1_000_003)
        np.random.seed(5 * 1_000_003 % 2**32)
        torch.manual_seed(0)

    seed()
    collate = FastCollateMixup(0.8, 1.0, label_smoothing=0.0, num_classes=5)
    pairs = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    halves = [collate(pairs[:32]), collate(pairs[32:])]
    x = (torch.cat([half[0] for half in halves]).float() - 127.5) / 127.5
    expected = RandomErasing(0.25, mode="pixel", device="cpu")(x)
    mixing = Mixing(r, 5, 5, torch.device("cpu"))
    seed()
    mixing.start(0)
    found, shares = mixing((torch.from_numpy(images).float() - 127.5) / 127.5, labels)
    assert torch.allclose(found, expected, atol=0.51 / 127.5)  # timm rounds to whole grey levels
    assert torch.allclose(shares, torch.cat([half[1] for half in halves]))
