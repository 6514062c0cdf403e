"""A sweep through job arrays: what it submits and says; its records equal local ones."""

import re
import shutil
import subprocess
import time

from cluster import MAX_ARRAY, until
from samples import NORMS


def counted(sweep) -> None:
    """Have every sbatch leave a line in a file."""
    own = sweep.folder / "bin" / "sbatch"
    own.parent.mkdir()
    own.write_text(f'#!/bin/sh\necho x >> {own}.calls\nexec {shutil.which("sbatch")} "$@"\n')
    own.chmod(0o755)
    sweep.env["PATH"] = f"{own.parent}:{sweep.env['PATH']}"


def test_a_grid_in_chunks_equals_a_local_run(sweep):
    counted(sweep)
    sweep.rows = "linear,lora,bias,ssf,full,rlrr"
    sweep.extra = ["--runs-per-gpu", "1", "--setup", "export MARK=1"]
    sweep.settings.write_text(sweep.settings.read_text().replace("start: 20", "start: 50"))
    planned = sweep("--dry-run")
    assert f"12 packs, the longest 50 s (time limit 60 min), in 2 job arrays of {MAX_ARRAY}, 1" in (
        planned
    )
    assert "0.2 GPU hours, 50 s if nothing has to wait (estimated from past runs for 0" in planned
    assert not sweep.results.exists()
    output = sweep()
    assert "12 submitted" in output and ".tex, .md, .csv" in output
    calls = (sweep.folder / "bin" / "sbatch.calls").read_text().split()
    assert len(calls) == 2
    made = sweep.complete(12)
    logs = [record["log"] for record in made.values()]
    assert len(set(logs)) == 12 and all((sweep.results / log).exists() for log in logs)

    local = sweep.words("--cluster", "local", "--results", str(sweep.folder / "local"))
    subprocess.run(local, check=True, capture_output=True, env=sweep.env)
    store, sweep.results = sweep.results, sweep.folder / "local"
    here = sweep.records()
    sweep.results = store
    assert set(here) == set(made)
    for run_id, record in here.items():
        assert record["top1_last"] == made[run_id]["top1_last"]
        assert record["curve"] == made[run_id]["curve"]
        for key in ("code", "method_code", "git_commit", "git_dirty", "plugins"):
            assert record[key] == made[run_id][key], key  # a snapshot knows what it is a copy of

    assert "nothing to run: 12 of 12" in sweep()
    assert len((sweep.folder / "bin" / "sbatch.calls").read_text().split()) == 2
    assert not any((sweep.results / "claims").glob("*.json"))
    until(lambda: not sweep.cluster.ask("squeue", "-h"), 20, "the last job to leave the queue")
    assert re.search(r"removed \d\d files", sweep("--clean-logs"))
    assert not any(sweep.results.glob("logs/*/*"))
    assert "removed 0 files" in sweep("--clean-logs")


def test_several_runs_at_once_on_a_gpu(sweep):
    sweep.extra = ["--runs-per-gpu", "3", "--pack-minutes", "2"]
    assert "in 1 packs" in sweep()
    sweep.complete()
    until(lambda: "Job completed successfully" in sweep.logs(), 20, "the pack to end")


def test_status_queue_limit_and_cancel(sweep):
    sweep.rows, sweep.epochs = "linear,lora,bias,ssf,full,rlrr", 3000
    sweep.extra = ["--max-parallel", "1"]
    job = sweep.submit()
    other = sweep.cluster.ask("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "sleep 100")
    sweep.running()
    time.sleep(1)
    status = sweep("--status")
    assert re.search(r"all +0 +1 +11 +0 +0\n", status), status
    assert "1 running, 3 pending" in status and "JobArrayTaskLimit" in status
    assert re.search(r"about .* left for these, 1 at a time", status)
    assert "0 submitted, 12 queued or running already" in sweep("--no-wait")
    assert "12 queued, 0 to do" in sweep("--dry-run") or "11 queued" in sweep("--dry-run")
    waiting = sweep.start()
    assert any("queued or running already" in line for line in waiting.stdout)  # it waits now
    assert "cancelled 0 jobs" in sweep("--cancel", "--table", "3")
    assert "cancelled 4 jobs of 1 arrays" in sweep("--cancel")
    _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 2 and "error: cancelled with 12 runs left" in errors
    left = ["squeue", "-h", "-o", "%F"]
    until(lambda: job not in sweep.cluster.ask(*left).split(), 30, "the jobs to end")
    assert other.strip() in sweep.cluster.ask(*left).split()
    assert re.search(r"all +0 +0 +0 +0 +12\n", sweep("--status"))


def test_a_sweep_runs_the_code_it_was_submitted_with(sweep):
    plugin = sweep.folder / "norms.py"
    plugin.write_text(NORMS)
    sweep.rows, sweep.extra = "norms", ["--plugin", str(plugin)]
    for node in ("n1", "n2"):
        sweep.cluster.ask("scontrol", "update", f"node={node}", "state=drain", "reason=test")
    sweep.submit()
    plugin.write_text(NORMS.replace("    for", "    raise RuntimeError('edited')\n    for", 1))
    for node in ("n1", "n2"):
        sweep.cluster.ask("scontrol", "update", f"node={node}", "state=resume")
    output = sweep()
    made = sweep.complete(2)
    assert len(made) == 2, output
    assert "¶" in output  # made with the plug-in as it was, which is another now
    hashes = {(r["method_code"], r["plugins"]["norms"]) for r in made.values()}
    assert len(hashes) == 1 and len(set(hashes.pop())) == 1
    again = sweep()
    assert "2 records of norms were made with another" in again and "nothing to run" in again


def test_what_sbatch_refuses_is_one_line(sweep):
    said = sweep("--partition", "nowhere", code=2)
    assert said.startswith("error: ") and "invalid partition" in said
    assert said.count("\n") == 1
    assert not list((sweep.results / "jobs").glob("*.json"))
