"""Protocol `val`: who wins a grid, what a grid is, and what the winner is trained on."""

import dataclasses
from functools import cache
from pathlib import Path

import printed_records
import pytest

from rlrr_bench import methods
from rlrr_bench.benchmarks import recipes, tasks
from rlrr_bench.benchmarks.config import Recipe, RunConfig
from rlrr_bench.benchmarks.record import RunRecord
from rlrr_bench.methods.errors import ConfigError
from rlrr_bench.paper_tables import output, select, specs, views
from rlrr_bench.paper_tables.plan import PROTOCOLS, plan
from rlrr_bench.paper_tables.records import Records, scan
from rlrr_bench.paper_tables.table import Table, build

VIT = "vit_base_patch16_224.orig_in21k"
CIFAR = tasks.get("vtab-1k", "cifar")


def trial(lr: float, weight_decay: float = 0.0, **options) -> RunConfig:
    recipe = Recipe(lr=lr, weight_decay=weight_decay)
    return RunConfig(
        "vtab-1k", "cifar", VIT, "fact", options, recipe, train_split="train", eval_split="val"
    )


def done(top1: float) -> dict:
    return {"status": "done", "top1_val": top1}


def failed(reason: str) -> dict:
    """The text says the opposite: it is the reason that counts."""
    others = {"diverged": "out of memory", "worker_died": "Diverged: loss is nan"}
    return {"status": "failed", "reason": reason, "error": others[reason]}


def record(config: RunConfig, fields: dict | None) -> RunRecord | None:
    return fields and RunRecord(run_id=config.run_id, config=config, **fields)


DIVERGED, DIED = failed("diverged"), failed("worker_died")


@pytest.mark.parametrize(
    ("trials", "results", "expected"),
    [
        ([trial(0.1), trial(0.2), trial(0.3)], [done(50), done(60), done(55)], 1),
        ([trial(0.3), trial(0.1), trial(0.2)], [done(60), done(60), done(60)], 1),
        ([trial(0.1, 0.01), trial(0.1, 0.001)], [done(60), done(60)], 1),
        ([trial(0.1, scale=10), trial(0.1, scale=1)], [done(60), done(60)], 0),
        ([trial(0.1), trial(0.2)], [done(1), DIVERGED], 0),
        ([trial(0.1), trial(0.2)], [done(60), DIED], None),
        ([trial(0.1), trial(0.2)], [done(60), None], None),
        ([trial(0.1), trial(0.2)], [DIVERGED, DIVERGED], None),
    ],
)
def test_the_winner(trials, results, expected):
    records = {t.run_id: record(t, r) for t, r in zip(trials, results, strict=True)}
    won = select.winner(trials, records.get)
    assert won is (None if expected is None else trials[expected])


def points(found: list[recipes.Resolved], *keys: str) -> list[tuple]:
    return [tuple(getattr(trial.recipe, key) for key in keys) for trial in found]


def test_vpts_grid():
    """Its 10 rates and 4 decays for SGD; 4 rates for AdamW, whose decay 0 is SGD in its code."""
    rates = [50, 25, 10, 5, 2.5, 1, 0.5, 0.25, 0.1, 0.05]
    found = recipes.trials("vpt_deep", "vpt", VIT, CIFAR)
    expected = [(r * 64 / 256, wd) for r in rates for wd in (0.01, 1e-3, 1e-4, 0)]
    assert points(found, "lr", "weight_decay") == expected
    assert {trial.options["prompts"] for trial in found} == {10}
    found = recipes.trials("vpt", "bias", VIT, CIFAR)
    expected = [
        (r * 64 / 256, *how)
        for r in (1e-3, 1e-4, 5e-4, 5e-3)
        for how in (("adamw", 0.01), ("sgd", 0.0))
    ]
    assert points(found, "lr", "optimizer", "weight_decay") == expected


def test_facts_grid_is_its_scale_and_the_default_grid_is_around_the_recipes_rate():
    found = recipes.trials("fact_tk", "fact", VIT, CIFAR)
    assert [t.options for t in found] == [
        {"rank": 32, "scale": scale} for scale in (0.01, 0.1, 1, 10, 100)
    ]
    own = recipes.resolve("rlrr", "rlrr", VIT, CIFAR).recipe
    found = recipes.trials("rlrr", "rlrr", VIT, CIFAR)
    assert [t.recipe.lr for t in found] == [3e-4, 9e-4, 3e-3, 9e-3, 3e-2]
    assert {dataclasses.replace(t.recipe, lr=own.lr) for t in found} == {own}


def test_what_is_set_on_the_command_line_is_not_searched():
    found = recipes.trials("vpt_deep", "vpt", VIT, CIFAR, {"lr": 0.5})
    assert points(found, "lr", "weight_decay") == [(0.5, wd) for wd in (0.01, 1e-3, 1e-4, 0)]


@cache
def before_any_run(profile: str, protocol: str) -> list[Table]:
    records = Records(Path("nowhere"))
    return output.whole(specs.every(), specs.profile(profile), records, protocol)


@pytest.mark.parametrize("profile", specs.profiles())
def test_every_recipe_has_a_grid_for_every_row_that_uses_it(profile):
    for table in before_any_run(profile, "val"):
        for cell in table.cells:
            assert cell.config is None and 3 <= len(cell.trials) <= 40
            assert {(t.train_split, t.eval_split, t.seed) for t in cell.trials} == {
                ("train", "val", 0)
            }


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p != "recipe"])  # see test_build.py
@pytest.mark.parametrize("profile", specs.profiles())
def test_every_table_can_be_written_before_any_run_by_every_protocol(protocol, profile, tmp_path):
    for table in before_any_run(profile, protocol):
        assert table.long[table.long["kind"] == "task"]["ours"].isna().all()
        output.write(table, tmp_path)
        assert (tmp_path / f"{table.spec.name}-{protocol}.md").is_file()


def test_each_printed_row_has_its_rule():
    """By hand: VPT by validation images, NOAH and FacT every 10th epoch, the others every one."""
    of_vpt = {"full", "linear", "adapter", "bias", "vpt-shallow", "vpt-deep", "mlp", "partial"}
    for name in specs.every():
        for cell in plan(printed_records.request(name, seeds=(0,), protocol="printed")):
            row = cell.row
            expected = "val" if row.key in of_vpt else "best"
            if name == "table2" and row.key in ("lora", "adaptformer", "fact"):
                expected = "best_10"
            unknown = (name in ("table3", "table4a", "table4b") and row.key == "lora") or (
                name.startswith("table4") and row.key == "ssf"
            )
            assert row.printed_rule == ("unknown" if unknown else expected) and row.printed_source
            assert cell.rule == ("last" if unknown else expected), (name, row.key)
            every = {"last": 0, "val": 0, "best_10": 10, "best": 1}[cell.rule]
            assert cell.eval_every == every and bool(cell.trials) == (cell.rule == "val")


def finished(config: RunConfig, **scores: float) -> RunRecord:
    return RunRecord(run_id=config.run_id, status="done", config=config, **scores)


@pytest.mark.parametrize(
    "wanted, there, answers",
    [(0, 1, True), (0, 10, True), (10, 1, True), (10, 0, False), (1, 10, False), (1, 0, False)],
)
def test_who_looked_more_often_answers(wanted, there, answers):
    request = printed_records.request("table2", rows=("rlrr",), tasks=("cifar",), seeds=(0,))
    (cell,) = plan(request)
    cell = dataclasses.replace(cell, config=dataclasses.replace(cell.config, eval_every=wanted))
    other = dataclasses.replace(cell.config, eval_every=there)
    records = {other.run_id: finished(other, top1_last=50.0)}
    (decided,) = select.decide([cell], records.get, records)
    assert decided.config == (other if answers else cell.config)
    records[cell.config.run_id] = finished(cell.config, top1_last=50.0)
    (decided,) = select.decide([cell], records.get, records)
    assert decided.config == cell.config  # its own record is the first choice
    another = dataclasses.replace(other, seed=1)  # another training never answers
    records = {another.run_id: finished(another, top1_last=50.0)}
    assert select.decide([cell], records.get, records) == [cell]


def test_a_current_run_answers_rather_than_an_outdated_one():
    request = printed_records.request("table2", rows=("rlrr",), tasks=("cifar",), seeds=(0,))
    (cell,) = plan(request)
    now = {"method_code": methods.code_hash("rlrr")}
    often = [dataclasses.replace(cell.config, eval_every=every) for every in (10, 1)]
    records = {c.run_id: finished(c, top1_last=50.0).replace(**now) for c in often}
    own = finished(cell.config, top1_last=60.0)
    for code, expected in (("000000000000", often[1]), (now["method_code"], cell.config)):
        records[cell.config.run_id] = own.replace(method_code=code)
        (decided,) = select.decide([cell], records.get, records)
        assert decided.config == expected
    del records[cell.config.run_id]
    (decided,) = select.decide([cell], records.get, records)
    assert decided.config == often[1]  # which answers for best_test too


@pytest.mark.parametrize("name, unknown", [("table2", ()), ("table4a", ("LoRA", "SSF"))])
def test_by_the_printed_rule_there_is_nothing_to_warn_of(name, unknown, paper_records):
    request = printed_records.request(name, protocol="printed")
    built = build(request, scan(paper_records))
    notes = " ".join(views.sheet(built, "compare").notes)
    assert "Ours and printed were selected by different rules" not in notes
    assert "The printed rows were selected by different rules among themselves." in notes
    assert ("a rule that is unknown (LoRA, SSF)" in notes) == bool(unknown)
    assert built.long["rank"].isna().all()  # its rows do not compare
    by_recipe = build(printed_records.request(name), scan(paper_records))
    notes = " ".join(views.sheet(by_recipe, "compare").notes)
    assert "different rules in all rows" in notes or "in Full fine-tuning, Linear" in notes


def test_scores_by_rule():
    config = trial(0.1)
    scores = {"top1_last": 50.0, "top1_best_10": 55.0, "top1_best_test": 60.0}
    records = {config.run_id: finished(config, **scores)}
    found = {r: select.score([config.run_id], records, r).value for r in select.SCORES}
    assert found == {"last": 50.0, "val": 50.0, "best_10": 55.0, "best": 60.0}


@pytest.mark.parametrize("grid", [{"lr": 3}, {"lr": []}, {"lr, momentum": [[1]]}, {"lr": ["xy"]}])
def test_a_grid_that_is_none_is_named(grid, monkeypatch):
    file = recipes.recipe_file("rlrr")
    monkeypatch.setattr(
        recipes, "recipe_file", lambda name: file | {"defaults": {"lr": 1, "grid": grid}}
    )
    with pytest.raises(ConfigError, match=r"rlrr.yaml \(rlrr, cifar\): grid"):
        recipes.trials("rlrr", "rlrr", VIT, CIFAR)


def test_the_winner_is_trained_on_all_images_by_every_seed():
    request = printed_records.request("table2", rows=("rlrr",), tasks=("cifar",), protocol="val")
    cells = plan(request)
    assert [cell.seed for cell in cells] == [0, 1, 2]
    trials = cells[0].trials
    assert all(cell.trials == trials for cell in cells)
    records = {t.run_id: record(t, done(10 * t.recipe.lr)) for t in trials}
    decided = select.decide(cells, records.get, records)
    for cell, seed in zip(decided, (0, 1, 2), strict=True):
        assert cell.config == dataclasses.replace(
            trials[-1], seed=seed, train_split="trainval", eval_split="test"
        )
    published = plan(dataclasses.replace(request, protocol="recipe"))[0].config
    assert decided[0].config.recipe == dataclasses.replace(published.recipe, lr=3e-2)
    assert cells == select.decide(cells, {}.get, ())


def test_where_the_source_trains_without_validation_images_so_does_the_winner():
    part = {"rows": ("linear",), "tasks": ("CUB_200_2011",), "seeds": (0,)}
    (cell,) = plan(printed_records.request("table3", **part, protocol="val"))
    records = {t.run_id: record(t, done(50)) for t in cell.trials}
    (cell,) = select.decide([cell], records.get, records)
    assert (cell.config.train_split, cell.config.eval_split) == ("train", "test")
    assert cell.config.recipe.lr == 0.0125 and cell.config.recipe.weight_decay == 0
