"""The audit of the printed Params.(M) columns, and what the specs say for it."""

import csv
import time

import pytest
import timm
import torch
from rlrr_bench.benchmarks import tasks
from rlrr_bench.methods.errors import ConfigError
from rlrr_bench.paper_tables import audit, specs
from rlrr_bench.paper_tables.audit import DIFFERS, EQUAL, SOLVED

from rlrr_bench import methods

# Worked out by hand from the methods' formulas and the tasks' class counts, to 4 decimals.
COMPUTED = {
    ("table2", "full"): 85.7987,
    ("table2", "vpt-shallow"): 0.1097,
    ("table2", "vpt-deep"): 0.5997,
    ("table2", "lora"): 0.2949,
    ("table2", "fact"): 0.0690,  # rank 32 on 13 tasks, 16 on 6
    ("table2", "rlrr"): 0.3268,
    ("table3", "full"): 85.9791,
    ("table3", "vpt-shallow"): 0.2495,
    ("table3", "arc"): 0.2768,
    ("table4a", "adapter"): 2.3840,
    ("table4a", "vpt-deep"): 0.4905,
    ("table4a", "rlrr"): 0.8167,
    ("table4b", "full"): 630.8282,
    ("table4b", "adapter"): 5.7763,
    ("table4b", "rlrr"): 1.3383,
    ("table5", "mlp"): 3.2057,
    ("table5", "partial"): 12.6544,
    ("table5", "vpt-deep"): 0.2204,
    ("table6", "left"): 0.3862,
    ("table6", "both-residual"): 0.4692,
}
SOLVED_ROWS = {
    *(("table3", row) for row in ("vpt-shallow", "lora")),
    *((t, r) for t in ("table4a", "table4b") for r in ("adapter", "vpt-shallow", "vpt-deep")),
    *((t, "lora") for t in ("table4a", "table4b")),
    ("table5", "vpt-shallow"),
}
DIFFERING = {
    ("table3", "arc"): 0.0268,
    ("table3", "arc-augreg"): 0.0268,
    ("table4a", "full"): -0.0477,
    ("table4a", "arc"): 0.0247,
    ("table4b", "full"): -0.0718,
    ("table4b", "arc"): 0.0565,
    ("table4b", "rlrr"): 0.0083,
    ("table5", "full"): -0.0061,
    ("table5", "mlp"): -0.8343,
}


@pytest.fixture(scope="module")
def lines() -> dict[tuple[str, str], audit.Line]:
    began = time.perf_counter()
    found = {(line.table, line.row): line for line in audit.audit()}
    assert time.perf_counter() - began < 60
    return found


def test_every_row_of_tables_2_to_6_has_a_verdict(lines):
    assert len(lines) == 61
    assert audit.totals(list(lines.values())) == {EQUAL: 41, SOLVED: 11, DIFFERS: 9}
    assert {key for key, line in lines.items() if line.verdict == SOLVED} == SOLVED_ROWS
    by_table = [sum(key[0] == name for key in lines) for name in ("table2", "table3", "table4a")]
    assert by_table == [14, 12, 10]


def test_numbers(lines):
    assert {key: round(lines[key].computed_m, 4) for key in COMPUTED} == COMPUTED


def test_rows_that_differ_say_by_how_much_and_why(lines):
    found = {k: round(v.difference_m, 4) for k, v in lines.items() if v.verdict == DIFFERS}
    assert found == DIFFERING
    assert all(len(lines[key].remark) > 10 for key in {*DIFFERING, *SOLVED_ROWS})


def test_heads_are_counted_as_built(lines):
    """The mean head is added by formula; here it is part of a model."""
    totals = []
    for task in tasks.select("fgvc", None):
        with torch.device("meta"):
            model = timm.create_model("vit_base_patch16_224", num_classes=task.num_classes)
        totals.append(methods.parameters(methods.apply("rlrr", model))["total"])
    computed = lines["table3", "rlrr"].computed_m
    assert computed == pytest.approx(sum(totals) / len(totals) / 1e6, abs=1e-6)


def test_command(lines, tmp_path, capsys):
    out = tmp_path / "new" / "audit.csv"
    assert audit.main(["--csv", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "61 rows: 41 equal, 11 equal with options solved backwards, 9 differ" in shown
    assert "differs -0.83" in shown and "prompts 60.95 (mean)" in shown
    assert audit.main(["--csv", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --csv: ")
    with out.open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == 61 and [p.name for p in out.parent.iterdir()] == ["audit.csv"]
    assert written[0]["printed_m"] == "85.8" and written[0]["verdict"] == "equal"


@pytest.mark.parametrize(
    "row, message",
    [
        ("{setting: guessed}", "setting: found 'guessed', expected documented or solved"),
        ("{audit: {rank: {7: 18}}}", "rank: found 18 tasks, expected 19"),
        ("{audit: {rank: {7: many}}}", "rank: found many tasks, expected 19"),
        ("{audit: {ranks: {7: 19}}}", "unknown option 'ranks'; did you mean rank"),
        ("{audit: {rank: 7}}", "expected {option: {value: tasks}}"),
    ],
)
def test_mistakes_in_a_spec(tmp_path, monkeypatch, row, message):
    text = (
        "title: T\nbenchmark: vtab-1k\nbackbone: vit_base_patch16_224.orig_in21k\nrows:\n"
        f"  mine: {{label: L, method: lora, recipe: noah, {row[1:]}\n"
    )
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(specs, "FOLDER", tmp_path)
    specs.load.cache_clear()
    with pytest.raises(ConfigError) as error:
        specs.load("mine")
    assert message in str(error.value)
    assert "mine.yaml: row mine: " in str(error.value) and "\n" not in str(error.value)
    specs.load.cache_clear()
