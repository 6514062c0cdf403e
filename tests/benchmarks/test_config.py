"""Run ids and recipes."""

import dataclasses
import subprocess
import sys

import pytest

from rlrr_bench.benchmarks import recipes, tasks
from rlrr_bench.benchmarks.config import Recipe, RunConfig, recipe_from
from rlrr_bench.methods.errors import ConfigError, InputError

CONFIG = RunConfig("vtab-1k", "cifar", "vit_base_patch16_224.orig_in21k", "rlrr")


def test_run_id_is_pinned():
    """A changed id would orphan every record ever made: this one may never change."""
    assert CONFIG.run_id == "2bd64f4d3b39"


def test_run_id_depends_on_what_a_run_is():
    changed = [
        dataclasses.replace(CONFIG, seed=1),
        dataclasses.replace(CONFIG, task="dtd"),
        dataclasses.replace(CONFIG, options={"left": False}),
        dataclasses.replace(CONFIG, recipe=Recipe(lr=2e-3)),
        dataclasses.replace(CONFIG, eval_every=1),
        dataclasses.replace(CONFIG, smoke=True),
    ]
    assert len({config.run_id for config in [CONFIG, *changed]}) == 7


def test_default_values_do_not_enter_the_id():
    explicit = RunConfig.from_dict(CONFIG.to_dict())
    assert explicit == CONFIG and explicit.run_id == CONFIG.run_id


@pytest.mark.parametrize(
    "values, message",
    [
        ({"lrr": 1}, r"here: unknown recipe key 'lrr'; did you mean lr\?"),
        ({"lr": "fast"}, "here: lr: found 'fast', expected float"),
        ({"lr": -1.0}, "here: lr: found -1.0, expected 0 or more"),
        ({"epochs": 2.5}, "here: epochs: found 2.5, expected int"),
        ({"hflip": "yes"}, "here: hflip: found 'yes', expected bool"),
        ({"schedule": "linear"}, "expected one of cosine, restarts, constant"),
    ],
)
def test_bad_recipe_values(values, message):
    with pytest.raises(InputError, match=message):
        recipe_from(values, "here")


def test_numbers_may_be_text():
    assert recipe_from({"lr": "5e-4", "epochs": "3"}, "here") == Recipe(lr=5e-4, epochs=3)


METHODS = ("full", "linear", "bias", "lora", "rlrr", "ssf", "vpt", "fact", "arc", "adapter")


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_resolves_for_every_task(name):
    for benchmark, own in tasks.benchmarks().items():
        for task in own.values():
            for method in METHODS:
                found = recipes.resolve(name, method, "vit_base_patch16_224.orig_in21k", task)
                assert found.source, f"{name} says no source"
                assert 0 < found.recipe.lr < 20, (name, benchmark, task.name)
                assert not (found.recipe.hflip and not task.hflip_safe), (name, task.name)


def test_rlrr_recipe_is_the_authors():
    """lr, weight decay, drop and flip of six tasks, from the authors' config, by hand."""
    expected = {
        "cifar": (3e-3, 5e-5, 0.1, False),
        "oxford_flowers102": (3e-3, 5e-2, 0.3, False),
        "resisc45": (3e-3, 5e-5, 0.0, False),
        "clevr_count": (5e-3, 5e-5, 0.5, True),
        "kitti": (3e-3, 5e-2, 0.3, True),
        "smallnorb_ele": (1e-3, 5e-5, 0.3, True),
    }
    flips = 0
    for task in tasks.benchmarks()["vtab-1k"].values():
        r = recipes.resolve("rlrr", "rlrr", "vit_base_patch16_224.orig_in21k", task).recipe
        flips += r.hflip
        assert (r.epochs, r.cooldown_epochs, r.batch_size, r.schedule_lag) == (100, 10, 32, True)
        if task.name in expected:
            found = (r.lr, r.weight_decay, r.drop_path, r.hflip)
            assert found == expected[task.name], task.name
    assert flips == 10
    on_swin = recipes.resolve("rlrr", "rlrr", "swin_base_patch4_window7_224.ms_in22k", task).recipe
    assert (r.drop_path_kind, on_swin.drop_path_kind) == ("element", "path")


def test_prompt_counts_give_the_published_means():
    for name, mean in (("vpt_shallow", 93.26), ("vpt_deep", 60.95), ("vpt_deep_swin", 14.11)):
        counts = [
            recipes.resolve(name, "vpt", "vit", task).options["prompts"]
            for task in tasks.benchmarks()["vtab-1k"].values()
        ]
        assert len(counts) == 19 and round(sum(counts) / 19, 2) == mean


def test_overriding_epochs_shortens_the_schedule():
    task = tasks.get("vtab-1k", "cifar")
    recipe = recipes.resolve("rlrr", "rlrr", "vit", task, {"epochs": 20}).recipe
    assert (recipe.epochs, recipe.warmup_epochs, recipe.cooldown_epochs) == (20, 2, 0)


def test_unknown_recipe():
    with pytest.raises(ConfigError, match="unknown recipe 'rlr'; did you mean rlrr"):
        recipes.recipe_file("rlr")


def test_task_table():
    """Totals of the archives, counted by hand: test images, classes, flip-unsafe tasks."""
    vtab = tasks.benchmarks()["vtab-1k"]
    assert len(vtab) == 19
    assert sum(task.sizes["test"] for task in vtab.values()) == 387_904
    assert sum(task.num_classes for task in vtab.values()) == 940
    unsafe = {task.name for task in vtab.values() if not task.hflip_safe}
    assert unsafe == {"svhn", "dsprites_loc", "dsprites_ori", "smallnorb_azi"}
    fgvc = tasks.benchmarks()["fgvc"]
    assert sum(task.num_classes for task in fgvc.values()) == 1173
    assert sum(task.sizes["trainval"] for task in fgvc.values()) == 52_107


def test_planning_needs_no_torch():
    modules = ("recipes", "data", "record", "context", "extensions", "provenance")
    code = "".join(f"import rlrr_bench.benchmarks.{name}; " for name in modules)
    code += "import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
