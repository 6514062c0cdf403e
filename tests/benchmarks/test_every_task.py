"""Every task of the paper in its own layout: read, decoded, trained on for a step and scored."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from rlrr_bench.benchmarks import recipes, run, tasks
from rlrr_bench.benchmarks.config import RunConfig
from rlrr_bench.benchmarks.run import Place
from rlrr_bench.launch import sweep
from rlrr_bench.paper_tables import specs
from samples import scaled, write_benchmarks, write_fgvc

VIT = "vit_demo_patch8_32.shapes"
SCALE = 0.0005
SWEPT = [("vpt", b, name) for b in ("vtab-1k", "fgvc") for name in tasks.benchmarks()[b]]
SWEPT += [("rlrr", "fgvc", name) for name in tasks.benchmarks()["fgvc"]]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """All 25 tasks with short lists; FGVC in the other layout too."""
    roots = {layout: tmp_path_factory.mktemp(layout) for layout in ("vpt", "rlrr")}
    write_benchmarks(roots["vpt"], SCALE)
    for task in tasks.benchmarks()["fgvc"].values():
        write_fgvc(roots["rlrr"], scaled(task, SCALE), 12, "rlrr")
    return roots


@pytest.fixture(scope="module")
def swept(written, tmp_path_factory) -> dict[tuple[str, str, str], dict]:
    """Records of Tables 2 and 3, a row each, with the demo's backbone in place of ViT-B/16."""
    big = {row.backbone for t in ("table2", "table3") for row in specs.load(t).rows.values()}
    small = specs.Profile("paper", (0,), backbones=dict.fromkeys(big, VIT))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specs, "profile", lambda _: small)
        for layout, table, row in (
            ("vpt", 2, "rlrr"),
            ("vpt", 3, "rlrr-augreg"),
            ("rlrr", 3, "rlrr-augreg"),
        ):
            results = tmp_path_factory.mktemp("results")
            words = ["--table", table, "--rows", row, "--data", written[layout], "--smoke"]
            words += ["--results", results, "--out", results / "out", "--cluster", "debug"]
            words += ["--epochs", 1, "--set", "batch_size=8", "--set", "drop_last=true"]
            assert sweep.main([str(word) for word in words]) == 0
            for path in (results / "runs").glob("*.json"):
                record = json.loads(path.read_text())
                config = record["config"]
                found[layout, config["benchmark"], config["task"]] = record
    return found


@pytest.mark.parametrize("layout, benchmark, name", SWEPT)
def test_every_task_through_the_sweep(swept, layout, benchmark, name):
    record = swept[layout, benchmark, name]
    assert record["error"] is None and 0 <= record["top1_last"] <= 100
    assert math.isfinite(record["curve"][-1]["loss"])
    assert record["params_head"] % tasks.get(benchmark, name).num_classes == 0
    assert record["config"]["recipe"]["batch_size"] == 8 and record["config"]["smoke"]


def one_step(benchmark: str, name: str, recipe: str, method: str) -> RunConfig:
    """The recipe as it is, but for a single epoch of one batch."""
    found = recipes.resolve(recipe, method, VIT, tasks.get(benchmark, name))
    short = dataclasses.replace(
        found.recipe, epochs=1, cooldown_epochs=0, warmup_epochs=0, drop_last=True, batch_size=4
    )
    return RunConfig(
        benchmark, name, VIT, method, {}, short, train_split=found.train_split, smoke=True
    )


@pytest.mark.parametrize("recipe, method", [("ssf", "ssf"), ("vpt_deep", "vpt"), ("arc", "arc")])
@pytest.mark.parametrize("layout", ["vpt", "rlrr"])
def test_fgvc_as_each_source_has_it(written, layout, recipe, method):
    config = one_step("fgvc", "StanfordDogs", recipe, method)
    assert config.train_split == ("trainval" if recipe == "ssf" else "train")
    record = run.execute(config, Place(written[layout]))
    assert record["error"] is None and math.isfinite(record["curve"][-1]["loss"])


def test_all_of_cifar100(written):
    config = one_step("cifar100", "cifar100", "rlrr", "rlrr")
    record = run.execute(config, Place(written["vpt"]))
    assert record["error"] is None and record["data_variant"] == "bin"
    assert math.isfinite(record["curve"][-1]["loss"])
