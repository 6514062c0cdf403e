"""The trainer, by a recipe, goes where the published loop goes (published.py), step for step."""

import copy
from dataclasses import replace

import numpy as np
import published
import pytest
import torch
import torch.nn.functional as F
from published import loop_of
from small_models import backbone
from timm.utils import ModelEmaV2
from torch import nn

from rlrr_bench import methods
from rlrr_bench.benchmarks import recipes, run, tasks, trainer
from rlrr_bench.benchmarks.config import Recipe
from rlrr_bench.benchmarks.data import Split
from rlrr_bench.benchmarks.pixels import Pixels

VIT = "vit_base_patch16_224.orig_in21k"
PATHS = [  # recipe, method, options, task; what the loop had done otherwise before this was tested
    ("vpt_deep", "vpt", {"prompts": 4, "dropout": 0.0}, "cifar"),
    ("vpt", "bias", {}, "cifar"),
    ("vpt", "full", {}, "cifar"),
    ("vpt", "linear", {}, "cifar"),
    ("vpt", "mlp", {"layers": 2, "dropout": 0.0}, "cifar"),
    ("vpt", "partial", {}, "CUB_200_2011"),
    ("noah", "lora", {"dropout": 0.0}, "cifar"),
    ("noah", "lora", {"dropout": 0.0, "init": "noah"}, "cifar"),
    ("fact_tk", "fact", {"rank": 4, "dropout": 0.0, "slices": "code"}, "cifar"),
    ("arc", "arc", {"rank": 8, "dropout": 0.0}, "cifar"),
    ("ssf", "ssf", {}, "cifar"),
    ("ssf", "ssf", {}, "OxfordFlowers"),
    ("rlrr", "rlrr", {}, "cifar"),
    ("rlrr", "rlrr", {}, "CUB_200_2011"),
    ("rlrr_aug", "rlrr", {}, "CUB_200_2011"),
    ("rlrr_aug", "rlrr", {}, "NABirds"),
]


@pytest.mark.slow
@pytest.mark.parametrize("recipe, method, options, task", PATHS)
def test_the_trainer_goes_where_the_published_loop_goes(recipe, method, options, task):
    """All epochs, a few images; what is drawn at random (dropout, crops, mixing) is off."""
    benchmark = "vtab-1k" if task == "cifar" else "fgvc"
    r = recipes.resolve(recipe, method, VIT, tasks.get(benchmark, task)).recipe
    loop = loop_of(recipe, benchmark, task, method)
    off = {"drop_path": 0.0, "dropout": 0.0, "hflip": False, "crop": "none", "mixup": 0.0}
    r = replace(r, **off, cutmix=0.0, label_smoothing=0.0, resize="squash", erasing=0.0)
    images, labels = _learnable(r.batch_size + 5)
    small = backbone("vit")
    torch.manual_seed(0)
    run.init_head(small.head, r.head_init)
    model = methods.apply(method, small, **options).double()  # rounding grows in so many steps
    model.register_forward_pre_hook(lambda _, given: given[0].double())
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    theirs = _published_training(copy.deepcopy(model), loop, r, images, labels, start)
    split = Split(images, labels, "none", "png")
    pixels = Pixels(loop.mean, loop.std)
    how = trainer.Procedure(plain=True)
    trainer.train(model, split, split, recipe=r, pixels=pixels, seed=3, how=how)
    ours = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    apart = sum(((ours[n] - theirs[n]) ** 2).sum() for n in start) ** 0.5
    moved = sum(((theirs[n] - start[n]) ** 2).sum() for n in start) ** 0.5
    assert moved > 1e-3 and apart < 1e-4 * moved, (apart / moved).item()


def _learnable(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count)
    images = rng.integers(0, 40, (count, 32, 32, 3)) + (labels * 50)[:, None, None, None]
    return images.astype(np.uint8), labels.astype(np.int64)


def _published_training(
    model: nn.Module,
    loop: published.Loop,
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    trained: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The loop by its own optimizer and scheduler; only the order of the images is ours."""
    named = [(loop.rename(n), p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = loop.optimizer(named, recipe.lr, recipe.weight_decay)
    average = ModelEmaV2(model, decay=loop.ema) if loop.ema else None
    generator = torch.Generator().manual_seed(3)
    steps = loop.steps(len(labels))
    order: list[torch.Tensor] = []
    for _ in loop.rates(optimizer, steps):
        if not order:
            model.train()
            order = list(torch.randperm(len(labels), generator=generator).split(loop.batch_size))
            order = order[:steps]
        batch = order.pop(0).numpy()
        x = torch.from_numpy(images[batch]).permute(0, 3, 1, 2) / 255
        x = (x - torch.tensor(loop.mean).view(3, 1, 1)) / torch.tensor(loop.std).view(3, 1, 1)
        optimizer.zero_grad()
        F.cross_entropy(model(x).float(), torch.from_numpy(labels[batch])).backward()
        if loop.clip:
            nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
        optimizer.step()
        if average:
            average.update(model)
    result = average.module if average else model
    return {n: p.detach() for n, p in result.named_parameters() if n in trained}
