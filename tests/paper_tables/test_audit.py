"""The audit of the printed Params.(M) columns, and what the specs say for it."""

import contextlib
import csv
import pickle
import time
from pathlib import Path

import pytest
import timm
import torch

from rlrr_bench import methods
from rlrr_bench.benchmarks import tasks
from rlrr_bench.launch.cli import main
from rlrr_bench.methods.errors import ConfigError
from rlrr_bench.paper_tables import audit, specs
from rlrr_bench.paper_tables.audit import DIFFERS, EQUAL, SOLVED

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
def folder(shared) -> Path:
    """The audit: its lines, and what the command printed and wrote."""

    def make(root: Path) -> None:
        began = time.perf_counter()
        lines = audit.audit()
        assert time.perf_counter() - began < 60
        (root / "lines.pickle").write_bytes(pickle.dumps(lines))
        with (root / "told.txt").open("w") as file, contextlib.redirect_stdout(file):
            assert main(["audit", "--csv", str(root / "new" / "audit.csv")]) == 0

    return shared("audit", make)


@pytest.fixture(scope="module")
def lines(folder) -> dict[tuple[str, str], audit.AuditLine]:
    lines = pickle.loads((folder / "lines.pickle").read_bytes())
    return {(line.table, line.row): line for line in lines}


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


def test_command(folder):
    out = folder / "new" / "audit.csv"
    shown = (folder / "told.txt").read_text()
    assert "61 rows: 41 equal, 11 equal with options solved backwards, 9 differ" in shown
    assert "differs -0.83" in shown and "prompts 60.95 (mean)" in shown
    with out.open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == 61 and [p.name for p in out.parent.iterdir()] == ["audit.csv"]
    assert written[0]["printed_m"] == "85.8" and written[0]["verdict"] == "equal"


def test_a_csv_that_cannot_be_written_is_one_line(lines, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audit, "audit", lambda: list(lines.values()))
    (tmp_path / "folder").mkdir()
    assert main(["audit", "--csv", str(tmp_path / "folder")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path / "folder") in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]  # and no draft


@pytest.mark.parametrize(
    "row, message",
    [
        ("{setting: guessed}", "setting: found 'guessed', expected documented or solved"),
        (
            "{printed_rule: best_of_all}",
            "printed_rule: found 'best_of_all', expected val or best_10 or best or unknown",
        ),
        ("{audit: {rank: {7: 18}}}", "rank: found 18 tasks, expected 19"),
        ("{audit: {rank: {7: many}}}", "rank: found many tasks, expected 19"),
        ("{audit: {ranks: {7: 19}}}", "unknown option 'ranks'; did you mean rank"),
        ("{audit: {rank: 7}}", "expected {option: {value: tasks}}"),
    ],
)
def test_mistakes_in_a_spec(tmp_path, row, message):
    text = (
        "title: T\nbenchmark: vtab-1k\nbackbone: vit_base_patch16_224.orig_in21k\nrows:\n"
        f"  mine: {{label: L, method: lora, recipe: noah, {row[1:]}\n"
    )
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        specs.spec(str(tmp_path / "mine.yaml"))
    assert message in str(error.value)
    assert "mine.yaml: row mine: " in str(error.value) and "\n" not in str(error.value)
