"""Every published value against a table written independently of the recipe files; traces."""

import pytest

from rlrr_bench import methods
from rlrr_bench.benchmarks import recipes, tasks
from rlrr_bench.benchmarks.config import recipe_from
from rlrr_bench.benchmarks.demo import models  # noqa: F401  registers the demo's backbones
from rlrr_bench.methods.errors import ConfigError, InputError

VIT = "vit_base_patch16_224.orig_in21k"
VTAB = "vtab-1k"
# task lr weight_decay drop flip
RLRR = """
cifar 3e-3 5e-5 .1 -       | caltech101 1e-3 5e-5 .1 -    | dtd 2e-3 5e-5 .1 y
oxford_flowers102 3e-3 5e-2 .3 - | oxford_iiit_pet 1e-3 5e-5 .1 y | svhn 5e-3 5e-5 .3 -
sun397 1e-3 5e-5 .1 -      | patch_camelyon 3e-3 5e-2 .3 y | eurosat 1e-3 5e-5 .1 y
resisc45 3e-3 5e-5 0 -     | diabetic_retinopathy 5e-3 5e-5 .1 y | clevr_count 5e-3 5e-5 .5 y
clevr_dist 1e-2 5e-5 .2 y  | dmlab 5e-3 5e-5 .3 y         | kitti 3e-3 5e-2 .3 y
dsprites_loc 1e-2 5e-5 .1 - | dsprites_ori 5e-3 5e-5 .1 - | smallnorb_azi 5e-3 5e-2 .3 -
smallnorb_ele 1e-3 5e-5 .3 y
"""
RLRR_FGVC = """
CUB_200_2011 3e-3 5e-2 .1 y | NABirds 5e-4 5e-2 .3 y | OxfordFlowers 3e-3 5e-2 .2 y
StanfordDogs 1e-4 5e-2 0 y  | StanfordCars 3e-3 5e-2 .2 y
"""
SSF = """
caltech101 1e-3 5e-2 .1 - | cifar 5e-3 5e-5 0 -          | clevr_count 2e-3 5e-2 .1 -
clevr_dist 5e-2 5e-2 .1 - | diabetic_retinopathy 5e-3 5e-5 .2 - | dmlab 5e-3 5e-5 .1 -
dsprites_loc 1e-2 5e-5 0 - | dsprites_ori 5e-3 5e-5 .2 - | dtd 5e-3 5e-5 0 -
eurosat 3e-3 5e-2 .2 -    | oxford_flowers102 5e-3 5e-5 0 - | kitti 1e-2 5e-5 0 -
patch_camelyon 5e-3 5e-5 0 - | oxford_iiit_pet 5e-3 5e-5 0 - | resisc45 2e-3 5e-5 .1 -
smallnorb_azi 2e-2 5e-5 .1 - | smallnorb_ele 5e-3 5e-2 .2 - | sun397 5e-3 5e-5 0 -
svhn 1e-2 5e-5 0 -
"""
SSF_FGVC = """
CUB_200_2011 1e-2 5e-2 0 y | NABirds 2e-4 5e-2 .1 y | OxfordFlowers 1e-2 5e-2 .1 y
StanfordCars 2e-2 5e-2 0 y | StanfordDogs 2.5e-4 5e-2 0 y
"""
# task lr weight_decay
ARC_SWIN = """
cifar 5e-3 .01 | caltech101 3e-3 .05 | dtd 5e-3 .05 | oxford_flowers102 5e-3 5e-5
oxford_iiit_pet 1e-2 .05 | svhn 1e-2 .05 | sun397 5e-3 5e-5 | eurosat 3e-3 0
resisc45 1e-2 0 | patch_camelyon 5e-3 5e-5 | diabetic_retinopathy 5e-3 5e-5
clevr_count 2e-3 .05 | clevr_dist 1e-3 .05 | dmlab 5e-3 .01 | kitti 1e-2 0
smallnorb_azi 1e-2 .005 | smallnorb_ele 1e-3 .05 | dsprites_loc 1e-2 0 | dsprites_ori 5e-3 0
"""
# task scale(rank) of FacT-TK and of FacT-TT
FACT = """
cifar .1 32 1 8 | caltech101 10 32 10 16 | dtd .01 16 .01 8 | oxford_flowers102 1 32 1 16
oxford_iiit_pet 10 16 1 8 | svhn 100 32 100 16 | sun397 1 16 1 8 | patch_camelyon 10 32 10 8
eurosat 100 32 100 8 | resisc45 10 32 .1 8 | diabetic_retinopathy 1 16 1 8
clevr_count 10 32 1 16 | clevr_dist 10 16 10 4 | dmlab 10 32 10 16 | kitti 10 32 10 16
dsprites_loc 100 32 100 16 | dsprites_ori 1 32 1 16 | smallnorb_azi 100 32 100 16
smallnorb_ele 10 16 10 8
"""


def rows(text: str) -> list[list[str]]:
    return [row.split() for row in text.replace("\n", "|").split("|") if row.strip()]


def resolve(name: str, task: str, benchmark: str = VTAB, method: str = "linear", tag: str = VIT):
    return recipes.resolve(name, method, tag, tasks.get(benchmark, task))


@pytest.mark.parametrize(
    "name, benchmark, text, count",
    [
        ("rlrr", VTAB, RLRR, 19),
        ("rlrr_aug", VTAB, RLRR, 19),
        ("rlrr", "fgvc", RLRR_FGVC, 5),
        ("rlrr_aug", "fgvc", RLRR_FGVC, 5),
        ("ssf", VTAB, SSF, 19),
        ("ssf", "fgvc", SSF_FGVC, 5),
    ],
)
def test_rates_decay_drop_and_flip_by_task(name, benchmark, text, count):
    assert len(rows(text)) == count
    for task, lr, decay, drop, flip in rows(text):
        r = resolve(name, task, benchmark).recipe
        found = (r.lr, r.weight_decay, r.drop_path, r.hflip)
        assert found == (float(lr), float(decay), float(drop), flip == "y"), (name, task)


def test_arc_on_swin_by_task():
    assert len(rows(ARC_SWIN)) == 19
    for task, lr, decay in rows(ARC_SWIN):
        found = resolve("arc_swin", task, method="arc")
        assert (found.recipe.lr, found.recipe.weight_decay) == (float(lr), float(decay)), task
        options = methods.options("arc", found.options)
        assert options.dropout == 0.5, task  # the published model has it, whatever the script says


def test_fact_by_task():
    assert len(rows(FACT)) == 19
    for task, tk, tk_rank, tt, tt_rank in rows(FACT):
        for name, scale, rank in (("fact_tk", tk, tk_rank), ("fact_tt", tt, tt_rank)):
            options = resolve(name, task, method="fact").options
            assert (options["scale"], options["rank"]) == (float(scale), int(rank)), (name, task)


# recipe: what it trains on, resize, crop, test resize, mixing, EMA, epochs with cooldown
FGVC = {
    "vpt": ("train", "short256", "random", "same", 0, 0, 0, 0, 0, 100),
    "arc": ("train", "short256", "random", "same", 0, 0, 0, 0, 0, 100),
    "rlrr": ("trainval", "squash256", "random", "same", 0, 0, 0, 0, 0, 60),
    "rlrr_aug": ("trainval", "squash256", "random", "same", 0.8, 1, 0.1, 0, 0.9998, 110),
    "ssf": ("trainval", "own", "rrc", "short248", 0.8, 1, 0.1, 0.25, 0.9998, 110),
}


@pytest.mark.parametrize("name", FGVC)
def test_fgvc_by_source(name):
    for task in ("CUB_200_2011", "NABirds", "OxfordFlowers", "StanfordDogs", "StanfordCars"):
        found = resolve(name, task, "fgvc")
        r = found.recipe
        mixing = (r.mixup, r.cutmix, r.label_smoothing, r.erasing)
        ema = 0.9998 if (name, task) == ("ssf", "OxfordFlowers") and r.ema == 0.999 else r.ema
        images = (found.train_split, r.resize, r.crop, r.resize_test)
        assert (*images, *mixing, ema, r.epochs + r.cooldown_epochs) == FGVC[name], task
        assert r.hflip and "FGVC" in found.source


def test_vtab_is_squashed_and_unmixed_everywhere():
    for name in recipes.names():
        found = resolve(name, "dtd")
        r = found.recipe
        assert (r.resize, r.crop, r.mixup, r.cutmix, r.erasing, r.ema) == (
            "squash",
            "none",
            0,
            0,
            0,
            0,
        )
        assert found.train_split == "trainval"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["lr=1e-3", "hflip=false"], {"lr": 1e-3, "hflip": False}),
        (["epochs=3", "epochs=5"], {"epochs": 5}),
        (
            ["hflip=where_safe", "schedule=constant"],
            {"hflip": "where_safe", "schedule": "constant"},
        ),
    ],
)
def test_overrides_from_the_command_line(words, expected):
    assert recipes.overrides(words) == expected


@pytest.mark.parametrize(
    "word, message",
    [
        ("lrr=1", "--set: unknown recipe key 'lrr'; did you mean lr"),
        ("lr", "--set: found 'lr', expected KEY=VALUE"),
        ("lr=", "--set: found 'lr=', expected KEY=VALUE"),
        ("lr=nan", "--set: lr: found 'nan', expected float"),
        ("batch_size=0", "--set: batch_size: found 0, expected 1 or more"),
        ("batch_size=064", "--set: batch_size: found '064', expected int"),
        ("batch_size=1_0", "--set: batch_size: found '1_0', expected int"),
        ("lr=1:30", "--set: lr: found '1:30', expected float"),
        ("lr=.inf", "--set: lr: found '.inf', expected float"),
        ("epochs=1e999", "--set: epochs: found inf, expected int"),
        ("hflip=yes", "--set: hflip: found 'yes', expected bool"),
        ("crop=middle", "--set: crop: found 'middle', expected one of none, random, rrc"),
        ("lr=[1", "--set: lr: found"),
    ],
)
def test_bad_overrides(word, message):
    with pytest.raises(Exception, match=message) as raised:
        recipes.overrides([word])
    assert isinstance(raised.value, InputError)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"resize": "own"}, "resize own needs crop rrc and a resize_test"),
        ({"resize": "short256"}, "resize short256 needs crop random or rrc"),
        ({"ema": 1.5}, "ema and erasing: expected 0 to 1"),
    ],
)
def test_settings_that_do_not_go_together(values, message):
    with pytest.raises(ConfigError, match=message):
        recipe_from(values, "here")
