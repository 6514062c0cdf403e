"""Protocol `val` by the command a user types: trials, then the winner, whatever comes between."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import sweep, typed
from test_sweep import folders, records

from rlrr_bench.benchmarks.demo.tasks import write_tasks


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The demo's real tasks: what wins must mean something."""
    folder = tmp_path_factory.mktemp("data")
    write_tasks(folder)
    return folder


def words(data: Path, path: Path, *more: str) -> list[str]:
    return [
        *("--table", "2", "--profile", "demo", "--protocol", "val", "--rows", "linear,bias"),
        *("--tasks", "digits,cells", "--epochs", "2", "--data", str(data), *folders(path)),
        *("--workers", "1", *more),
    ]


def by_stage(path: Path) -> tuple[dict, dict]:
    made = records(path)
    trials = {k: r for k, r in made.items() if r["config"]["eval_split"] == "val"}
    return trials, {k: r for k, r in made.items() if k not in trials}


def with_noise_for_test_labels(data: Path, to: Path) -> Path:
    shutil.copytree(data, to, ignore=shutil.ignore_patterns(".cache"))
    rng = np.random.default_rng(0)
    for path in to.glob("demo/*/test.txt"):
        lines = [line.rsplit(" ", 1) for line in path.read_text().splitlines()]
        labels = rng.permutation([label for _, label in lines])
        text = "".join(f"{name} {label}\n" for (name, _), label in zip(lines, labels, strict=True))
        path.write_text(text)
    return to


@pytest.mark.slow
def test_the_grid_then_the_winner_and_test_labels_decide_nothing(data, tmp_path):
    first = sweep(*words(data, tmp_path / "a"))
    assert first.returncode == 0, first.stderr
    assert "12 runs to do, 4 to follow, 0 done before" in first.stdout
    assert "16/16" in first.stdout and "settings chosen on validation images" in first.stdout
    trials, finals = by_stage(tmp_path / "a")
    assert len(trials) == 12 and len(finals) == 4
    assert all(
        r["top1_last"] is None and r["curve"][-1]["top1"] == r["top1_val"] for r in trials.values()
    )
    for final in finals.values():
        config = final["config"]
        own = [
            r for r in trials.values()
            if (r["config"]["method"], r["config"]["task"]) == (config["method"], config["task"])
        ]  # fmt: skip
        assert len(own) == 3
        best = min(own, key=lambda r: (-r["top1_val"], r["config"]["recipe"]["lr"]))
        assert config["recipe"] == best["config"]["recipe"]
        assert (config["train_split"], config["eval_split"]) == ("trainval", "test")
        assert final["top1_last"] is not None and final["top1_val"] is None

    noisy = with_noise_for_test_labels(data, tmp_path / "noisy")
    assert typed(*words(noisy, tmp_path / "b")).returncode == 0
    trials_b, finals_b = by_stage(tmp_path / "b")
    assert finals_b.keys() == finals.keys()  # the same settings won
    assert {k: r["top1_val"] for k, r in trials_b.items()} == {
        k: r["top1_val"] for k, r in trials.items()
    }
    assert any(finals_b[k]["top1_last"] < finals[k]["top1_last"] - 5 for k in finals)

    again = typed(*words(data, tmp_path / "a"))
    assert "nothing to run: 16 of 16 runs have a record" in again.stdout


def test_it_goes_on_from_any_point(data, tmp_path):
    assert typed(*words(data, tmp_path)).returncode == 0
    whole = records(tmp_path)
    trials, finals = by_stage(tmp_path)
    lost = [next(iter(finals)), next(iter(trials)), list(trials)[-1]]
    for run_id in lost:
        (tmp_path / "results" / "runs" / f"{run_id}.json").unlink()
    status = typed(*words(data, tmp_path, "--status")).stdout
    assert re.search(r"all +\d+ +0 +0 +0 +2 +\d", status) and "waiting" in status
    done = typed(*words(data, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 runs to do, " in done.stdout
    after = records(tmp_path)
    assert after.keys() == whole.keys()
    same = [k for k in whole if k not in lost]
    assert {k: after[k] for k in same} == {k: whole[k] for k in same}
    for run_id in lost:
        assert after[run_id]["curve"] == whole[run_id]["curve"]


def test_a_trial_that_failed_keeps_its_cell_open_until_it_is_tried_again(data, tmp_path):
    one = [*words(data, tmp_path), "--rows", "linear", "--tasks", "cells"]
    assert typed(*one).returncode == 0
    trials, finals = by_stage(tmp_path)
    (final,), trial = finals, next(iter(trials))
    runs = tmp_path / "results" / "runs"
    (runs / f"{final}.json").unlink()
    failure = trials[trial] | {"status": "failed", "error": "the worker process died (signal 9)"}
    (runs / f"{trial}.json").write_text(json.dumps(failure, indent=1) + "\n")
    stuck = typed(*one)
    assert "nothing to run" in stuck.stdout and "1 more wait for trials that failed" in stuck.stdout
    assert not (runs / f"{final}.json").exists()
    assert typed(*one, "--retry-failed").returncode == 0
    assert by_stage(tmp_path)[1].keys() == {final}


def test_the_dry_run_counts_what_follows(data, tmp_path):
    shown = typed(*words(data, tmp_path, "--dry-run", "--seeds", "0,1")).stdout
    assert re.search(r"Linear probing .* val +2 x 2 +0 +6 \+ 4 +\d+\.\d\n", shown)
    assert "8 cells, 20 runs; 0 done, 12 to do, 8 to follow" in shown
    assert not (tmp_path / "results").exists()
