"""Every task of the paper in its own layout: read, decoded, trained on for a step and scored."""

import dataclasses
import math

import pytest
from samples import write_benchmark

from rlrr_bench.benchmarks import recipes, run, tasks
from rlrr_bench.benchmarks.config import RunConfig
from rlrr_bench.benchmarks.context import RunContext
from rlrr_bench.benchmarks.record import RunRecord
from rlrr_bench.benchmarks.store import Results
from rlrr_bench.launch.cli import main
from rlrr_bench.paper_tables import specs

VIT = "vit_demo_patch8_32.shapes"
SCALE = 0.0005


@pytest.mark.parametrize(
    "layout, table, row",
    [("vpt", "2", "rlrr"), ("vpt", "3", "rlrr-augreg"), ("rlrr", "3", "rlrr-augreg")],
)
def test_every_task_through_the_sweep(layout, table, row, tmp_path, monkeypatch):
    """A row of Tables 2 and 3, with the demo's backbone in place of ViT-B/16."""
    benchmark, data = {"2": "vtab-1k", "3": "fgvc"}[table], tmp_path / "data"
    write_benchmark(data, benchmark, None, SCALE, fgvc=layout)
    big = {row.backbone for row in specs.spec(f"table{table}").rows.values()}
    small = specs.Profile("paper", (0,), backbones=dict.fromkeys(big, VIT))
    monkeypatch.setattr(specs, "profile", lambda _: small)
    words = ["sweep", "--table", table, "--rows", row, "--data", data, "--smoke"]
    words += ["--results", tmp_path, "--out", tmp_path / "out", "--cluster", "debug"]
    words += ["--epochs", 1, "--set", "batch_size=8", "--set", "drop_last=true"]
    assert main([str(word) for word in words]) == 0
    records = {}
    for path, record in Results(tmp_path).all():
        assert isinstance(record, RunRecord), f"{path}: {record}"
        records[record.config.task] = Results(tmp_path).read(record.run_id)
    assert sorted(records) == sorted(tasks.benchmarks()[benchmark])
    for name, record in records.items():
        assert record.error is None and 0 <= record.top1_last <= 100, name
        assert math.isfinite(record.curve[-1]["loss"]), name
        assert record.params_head % tasks.get(benchmark, name).num_classes == 0, name
        assert record.config.recipe.batch_size == 8 and record.config.smoke, name


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
def test_fgvc_as_each_source_has_it(layout, recipe, method, tmp_path):
    write_benchmark(tmp_path, "fgvc", ["StanfordDogs"], SCALE, fgvc=layout)
    config = one_step("fgvc", "StanfordDogs", recipe, method)
    assert config.train_split == ("trainval" if recipe == "ssf" else "train")
    record = run.execute(config, RunContext(tmp_path))
    assert record.error is None and math.isfinite(record.curve[-1]["loss"])


def test_all_of_cifar100(tmp_path):
    write_benchmark(tmp_path, "cifar100", None, SCALE)
    config = one_step("cifar100", "cifar100", "rlrr", "rlrr")
    record = run.execute(config, RunContext(tmp_path))
    assert record.error is None and record.data_variant == "bin"
    assert math.isfinite(record.curve[-1]["loss"])
