"""Jobs that end before their runs do: cancelled, requeued, preempted, killed.

Each fault is brought about on real daemons, most with and without accounting. After it every run
has one record, and none that was done is run again (`Sweep.complete`).
"""

import os
import signal

from cluster import until

LONG = 150  # epochs after which a run takes seconds, so that a fault meets it in the middle


def test_scancel_of_one_array_task(either):
    sweep = either
    sweep.epochs = LONG
    sweep.submit()
    job = sweep.running()["job"]
    assert "_" in job["id"]
    sweep.cluster.ask("scancel", job["id"])
    sweep()
    sweep.complete()
    if sweep.cluster.accounting:
        told = ["sacct", "-X", "-n", "-P", "-j", job["id"].partition("_")[0], "-o", "State"]

        def ends() -> list[str]:
            return sorted(line.split()[0] for line in sweep.cluster.ask(*told).splitlines())

        # of the array's two packs; the last record is there a moment before its job has ended
        until(lambda: ends() == ["CANCELLED", "COMPLETED"], 30, "both ends in sacct")


def test_requeue_of_a_running_task(either):
    sweep = either
    sweep.epochs = LONG
    sweep.submit()
    job = sweep.running()["job"]
    sweep.cluster.ask("scontrol", "requeue", job["id"])
    sweep()
    sweep.complete()


def test_preemption_saves_what_is_left_and_requeues_it(either):
    sweep = either
    sweep.epochs = 4 * LONG  # so that both signals come before its end, however slow scancel is
    sweep.submit()
    job = sweep.running()["job"]
    sweep.cluster.ask("scancel", "--signal=TERM", job["id"])
    sweep.cluster.ask("scancel", "--signal=USR2", job["id"])
    until(lambda: "Requeued job" in sweep.logs(), 30, "a requeue")
    sweep()
    sweep.complete()
    assert len(list((sweep.results / "jobs").glob("*.json"))) == 1  # the job itself went on


def test_kill_9_of_a_task(either):
    sweep = either
    sweep.epochs = LONG
    sweep.submit()
    os.kill(sweep.running()["pid"], signal.SIGKILL)
    sweep()
    sweep.complete()


def test_kill_9_of_one_of_several_workers_on_a_gpu(sweep):
    sweep.epochs = LONG
    sweep.extra = ["--runs-per-gpu", "2", "--pack-minutes", "2"]
    sweep.submit()
    os.kill(sweep.running()["pid"], signal.SIGKILL)
    sweep()
    sweep.complete()
