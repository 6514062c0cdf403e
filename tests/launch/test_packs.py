"""Packs: how runs are put together, what they are expected to take, what is left of one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from rlrr_bench.benchmarks.config import Recipe, RunConfig
from rlrr_bench.benchmarks.context import RunContext
from rlrr_bench.benchmarks.record import RunRecord
from rlrr_bench.benchmarks.store import Glance, Results
from rlrr_bench.launch import forecast
from rlrr_bench.launch.claims import Claims, Job
from rlrr_bench.launch.slurm import packs, squeue

BASE = RunConfig("demo", "digits", "vit_demo_patch8_32.shapes", "linear", recipe=Recipe(epochs=10))
PRIOR = {"start": 10.0, "train_1000_images": 1.0, "score_1000_images": 2.0}


def runs(*tasks: str, backbone: str = "vit", seeds: int = 4) -> list[RunConfig]:
    made = [replace(BASE, task=task, backbone=backbone) for task in tasks]
    return [replace(config, seed=seed) for seed in range(seeds) for config in made]


def done(config: RunConfig, seconds: float) -> RunRecord:
    return RunRecord(
        run_id=config.run_id, status="done", config=config, top1_last=50.0, seconds_total=seconds
    )


def test_packs_hold_their_minutes_and_never_two_backbones():
    configs = runs("digits", "cells", "terrain") + runs("digits", backbone="swin", seeds=2)
    found = packs.pack_runs(configs, lambda config: 20, minutes=2)
    assert sorted(c.run_id for pack in found for c in pack) == sorted(c.run_id for c in configs)
    assert [len(pack) for pack in found] == [2, 6, 6]
    assert all(len({c.backbone for c in pack}) == 1 for pack in found)
    tasks = [c.task for pack in found[1:] for c in pack]
    assert tasks == sorted(tasks)  # runs on the same data stand together
    assert [len(p) for p in packs.pack_runs(configs[:2], lambda config: 999, minutes=2)] == [1, 1]


def test_records_of_the_same_kind_tell_the_time_and_else_the_prior():
    configs = runs("digits", "cells")
    seen = {
        config.run_id: Glance("done", 30.0 + config.seed, 0)
        for config in configs
        if config.task == "digits" and config.seed < 3
    }
    estimate, known = forecast.estimator(configs, seen, PRIOR)
    assert {estimate(c) for c in configs if c.task == "digits"} == {31.0} and len(known) == 1
    assert {estimate(c) for c in configs if c.task == "cells"} == {10 + 10 * 1.0 + 2.0}
    longer = replace(configs[0], recipe=Recipe(epochs=100))
    assert estimate(longer) == 10 + 100 + 2


def test_wall_seconds():
    assert forecast.wall_seconds([3, 2, 2], None) == 3
    assert forecast.wall_seconds([3, 2, 2], 2) == 4
    assert forecast.wall_seconds([], None) == 0


def test_what_is_left_of_a_pack(tmp_path: Path):
    results = Results(tmp_path)
    first, second, third, fourth = configs = runs("digits")
    results.write(done(first, 1))
    for config, age in ((second, 100), (third, -100)):
        path = results.write(RunRecord.failed(config, "why", seconds_total=1))
        os.utime(path, (1000 - age,) * 2)
    pack = packs.Pack(tuple(configs), RunContext(), tmp_path, submitted=1000)
    # a failure from before the submission is to be tried again, one of this pack's own is not
    assert pack.left() == [second, fourth]


def test_a_run_that_no_time_limit_is_enough_for_fails_with_the_reason(tmp_path, monkeypatch):
    job = Job(id="7_3", name="rlrr-x", restarts=0)
    monkeypatch.setattr(squeue, "myself", lambda: job)
    monkeypatch.setattr(squeue, "tasks", lambda names, fresh=0: None)
    configs = tuple(runs("digits", seeds=2))
    context = RunContext(resume=tmp_path / "r")
    pack = packs.Pack(configs, context, tmp_path, minutes=60, submitted=0)
    claims = Claims(tmp_path, squeue)
    assert claims.take(configs[0].run_id)
    pack.began = 1.0
    left = pack.checkpoint().function
    assert [c.run_id for c in left.configs] == [configs[1].run_id]
    record = Results(tmp_path).read(configs[0].run_id)
    assert record.error == "not done within the job's 60 minutes; raise --time"
    assert record.reason == "time_limit"


def test_a_glance_at_a_record_tells_what_parsing_tells(tmp_path: Path):
    results = Results(tmp_path)
    record = done(BASE, 12.5).replace(method_code="abc", weights_fingerprint="w")
    path = results.write(record)
    glance = results.glance([BASE.run_id])[BASE.run_id]
    assert (glance.seconds, glance.method_code, glance.weights_fingerprint) == (12.5, "abc", "w")
    path.write_text(json.dumps(json.loads(path.read_text())))  # as somebody else may write it
    glance = results.glance([BASE.run_id])[BASE.run_id]
    assert (glance.status, glance.seconds) == ("done", 12.5)
    whole = path.read_text()
    for damage in (whole[:-10], "", "[]", whole.replace(BASE.run_id, "0" * 12, 1)):
        path.write_text(damage)
        assert results.glance([BASE.run_id]) == {} and results.read(BASE.run_id) is None


def test_planning_needs_no_torch():
    code = (
        "import sys, submitit\n"
        "from rlrr_bench.launch import cli, grid, runner\n"
        "from rlrr_bench.launch.slurm import arrays, packs\n"
        "cli.parser(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class FakeQueue(dict):
    """squeue's answer for one job name."""

    def __call__(self, names, fresh=0):
        return {name: dict(self) for name in names}


def test_slurm_has_the_first_word_on_a_claim_and_the_heartbeat_the_last(tmp_path, monkeypatch):
    claims = Claims(tmp_path, squeue)
    claims.take("a")
    path, holder = next(claims.folder.glob("*.json")), claims.holders()["a"].to_dict()
    job = {"id": "7_3", "name": "rlrr-x", "restarts": 0}
    path.write_text(json.dumps(holder | {"host": "elsewhere", "job": job}))
    for answer, alive in (
        ({"7_3": squeue.QueuedTask("RUNNING", 0, "None")}, True),
        ({"7_3": squeue.QueuedTask("COMPLETING", 0, "None")}, True),
        ({"7_3": squeue.QueuedTask("RUNNING", 1, "None")}, False),  # requeued: that was a ghost
        ({"7_3": squeue.QueuedTask("PENDING", 0, "BeginTime")}, False),
        ({}, False),
    ):
        monkeypatch.setattr(squeue, "tasks", FakeQueue(answer))
        assert ("a" in claims.holders()) == alive
    monkeypatch.setattr(squeue, "tasks", lambda names, fresh=0: None)
    assert "a" in claims.holders()
    os.utime(path, (1, 1))
    assert claims.holders() == {} and Claims(tmp_path, squeue).take("a")
    assert not claims.holds("b")
