"""Records: what they hold on disk, older and damaged ones, and the glance that plans take."""

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlrr_bench.benchmarks.config import Recipe, RunConfig
from rlrr_bench.benchmarks.record import (
    FIELDS,
    Glance,
    OtherRun,
    RecordError,
    Results,
    RunRecord,
    best_of,
)

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


@pytest.fixture
def done(small_config: RunConfig) -> RunRecord:
    """A record with something in every field that a run may fill."""
    return RunRecord(
        run_id=small_config.run_id,
        status="done",
        config=small_config,
        top1_last=62.5,
        top1_best_test=70.0,
        curve=({"epoch": 1, "lr": 1e-3, "loss": 2.25}, {"epoch": 2, "lr": 0.0, "loss": 0.1 + 0.2}),
        params_peft=0,
        seconds_total=12.25,
        data_fingerprint="0123+4567",
        weights_fingerprint="89ab" * 16,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        fast_paths=("frozen features",),
        git_commit="cdef" * 10,
        git_dirty=False,
        version="0.2.0",
        code="0123456789ab",
        method_code="ba9876543210",
        plugins={"norms": "00112233aabb"},
        log="logs/worker-1.out",
    )


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


def test_records_are_written_once_and_read_back(tmp_path, small_config):
    results = Results(tmp_path)
    run_id = small_config.run_id
    assert results.read(run_id) is None and list(results.all()) == []
    path = results.write(RunRecord.failed(small_config, "no luck"))
    assert results.read(run_id).error == "no luck"
    assert list(path.parent.iterdir()) == [path]
    whole = path.read_text()
    for damage, message in (
        (whole[: len(whole) // 2], "damaged: not JSON"),
        ("[]", "damaged: not a record"),
        (whole.replace('"schema": 1', '"schema": 99'), "schema 99; this code reads 1"),
    ):
        path.write_text(damage)
        assert results.read(run_id) is None
        ((listed, error),) = results.all()
        assert listed == path and isinstance(error, RecordError) and message in str(error)


def test_a_failing_write_leaves_the_old_record(tmp_path, small_config, monkeypatch):
    results = Results(tmp_path)
    path = results.write(RunRecord.failed(small_config, "first"))

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.write(RunRecord.failed(small_config, "second"))
    assert results.read(small_config.run_id).error == "first"
    assert list(path.parent.iterdir()) == [path]


def test_every_version_put_aside_is_kept(done, tmp_path):
    results = Results(tmp_path)
    texts = []
    for top1 in (10.0, 20.0, 30.0, 40.0):
        results.write(done.replace(top1_last=top1))
        texts.append(results.path(done.run_id).read_text())
        aside = results.put_aside(done.run_id)
        assert aside.read_text() == texts[-1]
        assert results.read(done.run_id) is None and list(results.all()) == []
        if top1 == 20.0:
            (tmp_path / "aside" / f"{done.run_id}.1.json").unlink()  # tidied up by hand
    kept = sorted((tmp_path / "aside").iterdir())
    assert sorted(path.read_text() for path in kept) == sorted(texts[1:])
    assert all(path.name.startswith(f"{done.run_id}.") for path in kept)
    assert results.put_aside(done.run_id) is None  # another process was faster


def test_a_record_that_cannot_be_read_is_never_written_over(done, tmp_path):
    results = Results(tmp_path)
    text = done.to_json().replace('"schema": 1', '"schema": 2')
    results.runs.mkdir()
    results.path(done.run_id).write_text(text)
    results.write(done)
    assert results.read(done.run_id) == done
    (aside,) = (tmp_path / "aside").iterdir()
    assert aside.read_text() == text


def kept_aside(results: Results) -> list[Path]:
    folder = results.folder / "aside"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_the_first_record_of_a_finished_run_stays(done, tmp_path):
    """A process that was frozen and thought dead comes back after its run was done by another."""
    results = Results(tmp_path)
    results.write(done)
    results.write(done.replace(top1_last=10.0, host="the ghost"))
    results.write(RunRecord.failed(done.config, "the ghost failed"))
    assert results.read(done.run_id) == done and kept_aside(results) == []
    assert list(results.runs.iterdir()) == [results.path(done.run_id)]


def test_a_failure_gives_way(done, tmp_path):
    results = Results(tmp_path)
    results.write(RunRecord.failed(done.config, "first"))
    results.write(RunRecord.failed(done.config, "second"))
    assert results.read(done.run_id).error == "second"
    results.write(done)
    assert results.read(done.run_id) == done and kept_aside(results) == []


@pytest.mark.parametrize("between", ["look", "move"])
def test_a_record_written_just_before_the_last_step_stays(done, tmp_path, monkeypatch, between):
    """The slower process has looked and seen a failure, or nothing; then the faster one writes."""
    results, slow = Results(tmp_path), Results(tmp_path)
    late = done.replace(top1_last=10.0)
    if between == "look":
        results.write(RunRecord.failed(done.config, "no luck"))

        def stale(run_id):
            monkeypatch.undo()
            seen = slow.read(run_id)
            results.write(done)
            return seen

        monkeypatch.setattr(slow, "read", stale)
    else:
        link = os.link

        def frozen(draft, path):
            monkeypatch.undo()
            results.write(done)
            link(draft, path)

        monkeypatch.setattr(os, "link", frozen)
    slow.write(late)
    assert results.read(done.run_id) == done and kept_aside(results) == []


def test_many_writers_at_once_leave_one_whole_record(done, tmp_path):
    results = Results(tmp_path)
    results.write(RunRecord.failed(done.config, "no luck"))
    candidates = [done.replace(top1_last=float(i)) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda record: Results(tmp_path).write(record), candidates))
    assert results.read(done.run_id) in candidates and kept_aside(results) == []
    assert list(results.runs.iterdir()) == [results.path(done.run_id)]


def test_a_glance_tells_what_parsing_tells(done, small_config, tmp_path):
    results = Results(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in V1:
        results.path(path.stem).write_bytes(path.read_bytes())
    failed = dataclasses.replace(small_config, seed=1)
    for record in (done, RunRecord.failed(failed, "no luck", seconds_total=None)):
        results.write(record)
    damaged = {}
    impossible = dataclasses.replace(small_config, seed=6)
    too_good = done.replace(config=impossible, run_id=impossible.run_id, top1_last=1000.0).to_json()
    for seed, text in ((2, "{"), (3, "[]"), (4, done.to_json()), (6, too_good)):
        run_id = dataclasses.replace(small_config, seed=seed).run_id
        damaged[run_id] = results.path(run_id).write_text(text)
    missing = dataclasses.replace(small_config, seed=5).run_id
    ids = [path.stem for path in results.files()]
    assert len(ids) == len(V1) + 6
    glances = results.glance([*ids, missing])
    for run_id in [*ids, missing]:
        record = results.read(run_id)
        if record is None:
            assert run_id not in glances and (run_id in damaged or run_id == missing)
            continue
        assert glances[run_id] == Glance(
            status=record.status,
            seconds=record.seconds_total or 0,
            written=results.path(run_id).stat().st_mtime,
            method_code=record.method_code,
            weights_fingerprint=record.weights_fingerprint,
            data_fingerprint=record.data_fingerprint,
        )
    assert glances[done.run_id].method_code == "ba9876543210"
    assert results.glance([done.run_id]) == {done.run_id: glances[done.run_id]}
