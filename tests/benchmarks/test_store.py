"""The folder of records: what is written stays whole, the first stays, and the glance of plans."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlrr_bench.benchmarks.record import RecordError, RunRecord
from rlrr_bench.benchmarks.store import Glance, Results

V1 = sorted((Path(__file__).parents[1] / "golden" / "v1" / "runs").glob("*.json"))


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
