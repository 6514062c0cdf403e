"""Every task of the paper in its own layout: read, decoded, trained on for a step and scored."""

import dataclasses
import json
import math

import pytest
from samples import write_benchmarks

from benchmarks import recipes, run, tasks
from benchmarks.config import RunConfig
from benchmarks.run import Place

VIT = "vit_demo_patch8_32.shapes"
TASKS = [(b, name) for b, own in tasks.benchmarks().items() if b != "demo" for name in own]


@pytest.fixture(scope="module", params=["vpt", "rlrr"])
def written(request, tmp_path_factory):
    """All 25 tasks with short lists, in both layouts of FGVC."""
    root = tmp_path_factory.mktemp(request.param)
    write_benchmarks(root, scale=0.001, fgvc=request.param)
    return root


def one_step(benchmark: str, name: str, recipe: str, method: str) -> RunConfig:
    """The recipe as it is, but for a single epoch of one batch."""
    found = recipes.resolve(recipe, method, VIT, tasks.get(benchmark, name))
    short = dataclasses.replace(
        found.recipe, epochs=1, cooldown_epochs=0, warmup_epochs=0, drop_last=True, batch_size=4
    )
    return RunConfig(
        benchmark, name, VIT, method, {}, short, train_split=found.train_split, smoke=True
    )


@pytest.mark.parametrize("benchmark, name", TASKS)
def test_every_task_trains_and_is_scored(written, benchmark, name):
    recipe, method = ("rlrr_aug", "rlrr") if benchmark == "fgvc" else ("rlrr", "rlrr")
    record = run.execute(one_step(benchmark, name, recipe, method), Place(written))
    assert record["error"] is None and 0 <= record["top1_last"] <= 100
    assert math.isfinite(record["curve"][-1]["loss"])
    head = tasks.get(benchmark, name).num_classes
    assert record["params_head"] % head == 0 and record["params_head"] > 0


@pytest.mark.parametrize("recipe, method", [("ssf", "ssf"), ("vpt_deep", "vpt"), ("arc", "arc")])
@pytest.mark.parametrize("name", ["CUB_200_2011", "StanfordDogs"])
def test_fgvc_as_each_source_has_it(written, recipe, method, name):
    config = one_step("fgvc", name, recipe, method)
    assert config.train_split == ("trainval" if recipe == "ssf" else "train")
    record = run.execute(config, Place(written))
    assert record["error"] is None and math.isfinite(record["curve"][-1]["loss"])


def test_all_of_vtab_and_fgvc_through_the_sweep(written, tmp_path, monkeypatch):
    """Tables 2 and 3, a row each, with the demo's backbone in place of ViT-B/16."""
    from launch import sweep
    from paper_tables import specs

    big = {name: VIT for row in specs.load("table2").rows.values() for name in [row.backbone]}
    small = specs.Profile("paper", (0,), backbones=big)
    monkeypatch.setattr(specs, "profile", lambda _: small)
    where = ["--data", written, "--results", tmp_path / "r", "--out", tmp_path / "o"]
    for table, row in (("2", "linear"), ("3", "linear")):
        words = ["--table", table, "--rows", row, *where, "--epochs", 1, "--smoke"]
        words += ["--cluster", "debug", "--set", "lr=1e-3"]
        assert sweep.main([str(word) for word in words]) == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "r/runs").glob("*.json")]
    assert len(records) == 24 and {r["status"] for r in records} == {"done"}
    assert {r["config"]["recipe"]["lr"] for r in records} == {1e-3}
    splits = {r["config"]["benchmark"]: r["config"]["train_split"] for r in records}
    assert splits == {"vtab-1k": "trainval", "fgvc": "train"}
