"""One training answers every protocol that only reads it; `--protocol printed` by row."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from commands import typed
from samples import SMALL, write_task
from test_sweep import folders, records

EPOCHS = 12
ROWS = "LoRA,FacT-TK≤32,RLRR"  # printed rules: best_10, best_10, best


@pytest.fixture
def words(tmp_path):
    write_task(tmp_path / "data", "demo", "digits", SMALL)

    def words(*more: str) -> list[str]:
        return [
            *("--table", "2", "--profile", "demo", "--smoke", "--epochs", str(EPOCHS)),
            *("--tasks", "digits", "--data", str(tmp_path / "data"), *folders(tmp_path), *more),
        ]

    return words


def numbers(path: Path, protocol: str) -> dict[str, float]:
    """Our numbers by row, of the newest table that was written."""
    newest = max((path / "results").glob("table2*_cells.csv"), key=lambda p: p.stat().st_mtime_ns)
    assert (protocol in newest.name) == (protocol != "recipe")
    cells = pd.read_csv(newest)
    return cells[cells["column"] == "digits"].set_index("label")["ours"].to_dict()


def curves(path: Path) -> dict[str, list[float]]:
    return {
        record["config"]["method"]: [point.get("top1") for point in record["curve"]]
        for record in records(path).values()
    }


def test_one_set_of_runs_fills_every_view(words, tmp_path):
    rows = ("--rows", ROWS)
    assert typed(*words(*rows, "--curve")).returncode == 0
    assert len(records(tmp_path)) == 3
    curve = curves(tmp_path)
    best = {
        "recipe": lambda scores: scores[-1],
        "best_test": max,
        "printed": lambda scores: max(scores[9], scores[11]),  # epochs 10 and 12
    }
    for protocol in best:
        done = typed(*words(*rows, "--protocol", protocol))
        assert done.returncode == 0 and "nothing to run: 3 of 3 runs" in done.stdout, done.stdout
        ours = numbers(tmp_path, protocol)
        for label, method in (("LoRA", "lora"), ("FacT-TK≤32", "fact")):
            assert ours[label] == pytest.approx(best[protocol](curve[method])), protocol
        of_rlrr = max if protocol == "printed" else best[protocol]
        assert ours["RLRR"] == pytest.approx(of_rlrr(curve["rlrr"])), protocol
    assert len(records(tmp_path)) == 3
    val = typed(*words("--rows", "LoRA", "--protocol", "val", "--dry-run")).stdout
    assert "1 cells, 4 runs; 0 done, 3 to do, 1 to follow" in val


def test_every_row_scores_the_test_set_as_often_as_its_rule_needs(words, tmp_path):
    rows = ("--rows", f"{ROWS},Linear probing", "--protocol", "printed")
    planned = typed(*words(*rows, "--dry-run")).stdout
    for label, rule, runs in (
        ("Linear probing", "val", r"3 \+ 1"),
        ("LoRA", "best_10", "1"),
        ("FacT-TK≤32", "best_10", "1"),
        ("RLRR", "best", "1"),
    ):
        assert re.search(rf"^{label} +.+ demo +{rule} +1 x 1 +0 +{runs} +\d+\.\d *$", planned, re.M)
    assert "4 cells, 7 runs; 0 done, 6 to do, 1 to follow" in planned
    made = typed(*words(*rows))
    assert made.returncode == 0, made.stderr
    assert "best of every 10th epoch on the test set (LoRA, FacT-TK≤32)" in " ".join(
        made.stdout.split()
    )
    often = {
        (r["config"]["method"], r["config"]["eval_split"]): r["config"]["eval_every"]
        for r in records(tmp_path).values()
    }
    assert len(records(tmp_path)) == 7
    assert often == {
        ("linear", "val"): 0,
        ("linear", "test"): 0,
        ("lora", "test"): 10,
        ("fact", "test"): 10,
        ("rlrr", "test"): 1,
    }
    scored = [i + 1 for i, top1 in enumerate(curves(tmp_path)["lora"]) if top1 is not None]
    assert scored == [10, 12]
    # what was scored more often than now needed answers; what was scored less often does not
    assert "nothing to run: 3 of 3" in typed(*words("--rows", ROWS)).stdout
    best = typed(*words("--rows", ROWS, "--protocol", "best_test", "--dry-run")).stdout
    assert "3 cells, 3 runs; 1 done, 2 to do" in best


def test_a_failed_run_is_not_answered_for_by_a_failed_one(words, tmp_path):
    one = ("--rows", "LoRA")
    assert typed(*words(*one, "--curve")).returncode == 0
    (file,) = (tmp_path / "results" / "runs").glob("*.json")
    failure = json.loads(file.read_text()) | {"status": "failed", "error": "ValueError: no"}
    file.write_text(json.dumps(failure))
    assert "1 cells, 1 runs; 0 done, 1 to do" in typed(*words(*one, "--dry-run")).stdout


def test_the_printed_rule_is_told_by_why(words, tmp_path, capsys):
    from rlrr_bench.launch.cli import main

    empty = ["--results", str(tmp_path / "none"), "--protocol", "printed"]
    assert main(["tables", "--why", "2", "LoRA", "CIFAR-100", *empty]) == 0
    told = capsys.readouterr().out
    assert "rule     best of every 10th epoch on the test set\n" in told
    assert re.search(r"the printed number: best of every 10th .*; NOAH's code keeps", told)
