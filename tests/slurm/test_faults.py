"""Whatever happens to jobs, nodes or the login shell, the same command again finishes the table.

Each fault is brought about on real daemons. After it every run has one record, and none that was
done is run again (`Sweep.complete`).
"""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from cluster import until
from samples import NORMS

LONG = 150  # epochs after which a run takes seconds, so that a fault meets it in the middle


def test_a_time_limit_too_short_for_its_pack(sweep):
    # SLURM signals 30 s earlier than it is told: a warning of 20 would leave no time to begin
    settings = sweep.settings.read_text().replace("warning_seconds: 20", "warning_seconds: 4")
    sweep.settings.write_text(settings)
    sweep.rows, sweep.epochs = "linear", 100 * LONG
    sweep.extra = ["--time", "1", "--plain"]  # one pack of more than a minute
    sweep.submit()
    until(lambda: "this job is timed-out" in sweep.logs(), 120, "the time limit")
    sweep()
    sweep.complete(2)


def test_a_node_lost_for_good(sweep):
    sweep.rows, sweep.epochs = "linear", 40 * LONG
    sweep.extra = ["--time", "3", "--plain"]  # so that the state is saved every 9 seconds
    sweep.submit()
    claim = sweep.running()
    job = claim["job"]
    node = sweep.cluster.ask("squeue", "-h", "-j", job["id"], "-o", "%N").strip()
    sweep.cluster.stop(node, signal.SIGKILL)  # its task runs on as a ghost
    process = sweep.start()

    def taken_over() -> bool:
        claims = (sweep.results / "claims").glob("[!.]*.json")
        return any(json.loads(c.read_text()).get("job", {}).get("restarts") == 1 for c in claims)

    until(taken_over, 90, "the task on the other node")
    assert Path(f"/proc/{claim['pid']}").exists()
    assert process.wait(120) == 0
    sweep.complete(2)


def test_the_controller_stopped_and_restarted(sweep):
    sweep.epochs = 4 * LONG
    process = sweep.start()
    sweep.running()
    lock = sweep.results / "jobs" / "claims"
    until(lambda: not list(lock.glob("submission.*")), 20, "the end of the submission")
    sweep.cluster.stop("slurmctld")
    status = sweep("--status")
    assert "SLURM does not answer" in status
    other = sweep("--rows", "ssf", code=2)
    error = other.removeprefix("another command submits for this folder: waiting for it\n")
    assert "error: SLURM does not answer" in error and error.count("\n") == 1
    sweep.cluster.start("slurmctld")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    sweep()
    sweep.complete()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_login_process_killed_during_submission(moment, sweep, tmp_path):
    kill = f"kill -9 $PPID\n{'exit 1' if moment == 'before' else ''}"
    real = f'{shutil.which("sbatch")} "$@"\n'
    own = tmp_path / "bin" / "sbatch"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\n" + (kill if moment == "before" else real + kill) + "\n")
    own.chmod(0o755)
    path = sweep.env["PATH"]
    sweep.env["PATH"] = f"{own.parent}:{path}"
    sweep(code=-signal.SIGKILL)
    sweep.env["PATH"] = path
    sweep()
    sweep.complete()


def test_two_sweeps_at_once(sweep):
    both = [sweep.start() for _ in "ab"]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("6 submitted, 0 queued" in output for output, _ in said) == 1
    assert sum("0 submitted, 6 queued" in output for output, _ in said) == 1
    sweep()
    sweep.complete()


def test_a_run_that_raises(sweep, tmp_path):
    plugin = tmp_path / "shaky.py"
    plugin.write_text(NORMS.replace("    for", "    raise RuntimeError('no way')\n    for", 1))
    sweep.rows, sweep.extra = "shaky,linear,lora", ["--plugin", str(plugin)]
    sweep(code=1)
    made = sweep.records()
    assert sorted(r["status"] for r in made.values()) == ["done"] * 4 + ["failed"] * 2
    status = sweep("--status")
    assert status.count("RuntimeError: no way") == 2
    log = Path(status.rpartition("[")[2].partition("]")[0])
    assert "RuntimeError: no way" in log.read_text()
    plugin.write_text(NORMS)
    # a failure is not tried again by itself, and the command fails as long as it is there
    assert "nothing to run" in sweep(code=1)
    assert all(
        f"{plugin}:" in r["traceback"][0] or "/plugins/shaky.py:" in r["traceback"][0]
        for r in made.values()
        if r["status"] == "failed"
    )
    for run_id, record in made.items():
        if record["status"] == "failed":
            del sweep.first[run_id]
            (sweep.results / "runs" / f"{run_id}.json").rename(tmp_path / run_id)
            (tmp_path / run_id).rename(sweep.results / "runs" / f"{run_id}.json")
    sweep.over.set()
    sweep("--retry-failed")
    assert {r["status"] for r in sweep.records().values()} == {"done"}
    assert len(sweep.records()) == 6


def test_a_full_disk_while_records_are_written(sweep):
    sweep.results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(sweep.results)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        sweep.epochs = LONG
        sweep.submit()
        until(lambda: sweep.records(), 60, "the first record")
        ballast = sweep.results / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        until(lambda: not sweep.cluster.ask("squeue", "-h"), 60, "the jobs to give up")
        assert len(sweep.records()) < 6
        full = sweep(code=1)
        assert "No space left on device" in full and "Traceback" not in full
        ballast.unlink()
        sweep()
        sweep.complete()
    finally:
        sweep.over.set()
        sweep.watcher.join()
        subprocess.run(["umount", "-l", str(sweep.results)], check=True)
