"""Records: what they hold as JSON, older and damaged ones."""

import dataclasses
import json
from pathlib import Path

import pytest

from rlrr_bench.benchmarks.config import Recipe
from rlrr_bench.benchmarks.record import FIELDS, OtherRun, RecordError, RunRecord, best_of

V1 = sorted((Path(__file__).parents[1] / "golden" / "v1" / "runs").glob("*.json"))
# fields that came after the first records were written, and what they say of those
ADDED = {
    "reason": None,
    "traceback": (),
    "version": None,
    "code": None,
    "method_code": None,
    "plugins": {},
    "log": None,
}
ADDED_TO_RECIPES = {"adamw": "torch", "eps": 1e-8, "mix_batch": 0}


def read_back(record: RunRecord) -> RunRecord:
    return RunRecord.from_json(record.to_json().encode(), record.run_id)


def test_a_record_comes_back_from_its_file_as_it_was(done, small_config):
    assert read_back(done) == done and done.done and not done.dirty
    assert list(json.loads(done.to_json())) == list(FIELDS)
    failed = RunRecord.failed(
        small_config, "DataError: no", "bad_input", traceback=("a.py:1 in f: g()",), host="here"
    )
    assert read_back(failed) == failed and not failed.done and failed.dirty
    known = {"schema", "run_id", "status", "error", "reason", "traceback", "config", "host"}
    assert set(json.loads(failed.to_json())) == known  # what is not known is left out
    changed = done.replace(top1_last=0.0, curve=())
    assert read_back(changed) == changed != done
    options = dataclasses.replace(
        small_config, method="lora", options={"targets": ["q", "v"]}, recipe=Recipe(lr=1e-5)
    )
    moved = done.replace(config=options, run_id=options.run_id)
    assert read_back(moved) == moved and read_back(moved).config.run_id == options.run_id


def test_without_its_curve_a_record_is_the_same(done):
    short = RunRecord.from_json(done.to_json().encode(), done.run_id, curve=False)
    assert short == done.replace(curve=())


@pytest.mark.parametrize("path", V1, ids=lambda path: path.stem)
def test_records_of_the_first_version_are_read(path):
    """Every field as it is written there; the fields that came later are neutral."""
    raw = json.loads(path.read_bytes())
    record = RunRecord.from_json(path.read_bytes(), path.stem)
    assert not ADDED.keys() & raw.keys()
    for name, value in raw.items():
        if name == "config":
            added = {"recipe": value["recipe"] | ADDED_TO_RECIPES}
            assert record.config.to_dict() == value | added and record.config.run_id == path.stem
        else:
            value = tuple(value) if isinstance(value, list) else value
            assert getattr(record, name) == value, name
    for name, value in ADDED.items():
        if name != "reason":
            assert getattr(record, name) == value, name
    assert "top1_best_10" not in raw
    scores = {p["epoch"]: p["top1"] for p in raw.get("curve", ()) if "top1" in p}
    every_10th = [scores[epoch] for epoch in (10, 20, 25) if epoch in scores]
    assert record.top1_best_10 == (max(every_10th) if len(every_10th) == 3 else None)
    reasons = {"Diverged": "diverged", "the worker process died": "worker_died"}
    begins = (raw["error"] or "").partition(":")[0].partition(" (")[0]
    assert record.reason == reasons.get(begins)
    assert (record.reason is None) == record.done
    assert read_back(record) == record


def test_one_record_of_the_first_version_has_a_curve_of_test_scores():
    records = [RunRecord.from_json(path.read_bytes(), path.stem, curve=False) for path in V1]
    scored = [record for record in records if record.top1_best_10 is not None]
    assert [record.config.eval_every for record in scored] == [1]
    assert scored[0].top1_last <= scored[0].top1_best_10 <= scored[0].top1_best_test


@pytest.mark.parametrize(
    "scored, epochs, best_10, best_1",
    [
        ({10: 50.0, 20: 70.0, 25: 60.0}, 25, 70.0, None),
        ({25: 60.0}, 25, None, None),  # scored at the end alone
        ({10: 50.0, 25: 60.0}, 25, None, None),
        ({epoch: float(epoch % 7) for epoch in range(1, 31)}, 30, 6.0, 6.0),
        ({epoch: float(epoch) for epoch in range(1, 6)}, 5, 5.0, 5.0),
        ({}, 0, None, None),
    ],
)
def test_the_best_of_every_tenth_epoch_and_the_last(scored, epochs, best_10, best_1):
    curve = [
        {"epoch": epoch} | ({"top1": scored[epoch]} if epoch in scored else {})
        for epoch in range(1, epochs + 1)
    ]
    assert (best_of(curve, 10), best_of(curve, 1)) == (best_10, best_1)


def test_records_of_the_first_version_failed_in_two_ways():
    reasons = [RunRecord.from_json(path.read_bytes(), path.stem).reason for path in V1]
    assert len(V1) == 15 and sorted(filter(None, reasons)) == ["diverged", "worker_died"]


@pytest.mark.parametrize(
    "error, reason",
    [
        ("Diverged: loss is nan in epoch 3 of 25 (lr 0.01)", "diverged"),
        ("the worker process died (signal 9)", "worker_died"),
        ("not done within the job's 60 minutes", "time_limit"),
        ("DataError: it says Diverged", "error"),
        (None, "error"),
    ],
)
def test_the_reason_of_an_old_failure_is_told_by_its_text(small_config, error, reason):
    content = json.loads(RunRecord.failed(small_config, "").to_json()) | {"error": error}
    del content["reason"]
    record = RunRecord.from_json(json.dumps(content).encode(), small_config.run_id)
    assert record.reason == reason and record.error == error


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema": 2}, "schema 2; this code reads 1"),
        ({"status": "running"}, "damaged: status 'running'"),
        ({"run_id": "0123456789ab"}, "holds the run '0123456789ab'"),
        ({"run_id": None}, "holds the run None"),
        ({"config": {"recipe": {}}}, "damaged: config: .*benchmark"),
        ({"config": {}}, "damaged: config: 'recipe'"),
        ({"top1_last": None}, "damaged: top1_last None"),
        ({"top1_last": 100.5}, "damaged: top1_last 100.5"),
        ({"top1_last": True}, "damaged: top1_last True"),
        ({"top1_best_test": 1000}, "damaged: top1_best_test 1000"),
        ({"top1_best_10": -5.0}, "damaged: top1_best_10 -5.0"),
        ({"top1_val": "60"}, "damaged: top1_val '60'"),
        (
            {"top1_best_test": 62.0},
            r"damaged: the best of its scores \[62.5, 62.0\] is not the last",
        ),
        ({"top1_best_10": 70.5}, r"damaged: the best of its scores \[62.5, 70.5, 70.0\] is not"),
    ],
)
def test_what_is_no_record_of_this_run_is_named(done, change, message):
    content = json.loads(done.to_json()) | change
    with pytest.raises(RecordError, match=message) as raised:
        RunRecord.from_json(json.dumps(content).encode(), done.run_id)
    assert isinstance(raised.value, OtherRun) == ("run_id" in change)


def test_a_changed_config_is_another_run(done):
    content = json.loads(done.to_json())
    content["config"]["seed"] = 7
    other = dataclasses.replace(done.config, seed=7).run_id
    with pytest.raises(RecordError, match=f"its config is that of the run {other}"):
        RunRecord.from_json(json.dumps(content).encode(), done.run_id)


def test_a_score_is_that_of_the_split_it_was_scored_on(done):
    assert done.score == 62.5
    config = dataclasses.replace(done.config, train_split="train", eval_split="val")
    on_val = done.replace(config=config, run_id=config.run_id, top1_last=None, top1_val=40.0)
    assert read_back(on_val).score == 40.0
    assert RunRecord.failed(done.config, "no").score != RunRecord.failed(done.config, "no").score
