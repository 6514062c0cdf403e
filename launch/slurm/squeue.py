"""What SLURM says of jobs: one squeue for many names, asked again after a few seconds.

squeue knows what waits and what runs, without accounting; what it does not list has ended.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from ..claims import Job

FRESH = 5  # seconds for which an answer is good
_FIELDS = "JobArrayID:40,State:20,RestartCnt:10,Name:60,Reason:80"
_known: dict[str, tuple[float, dict[str, "QueuedTask"]]] = {}


@dataclass(frozen=True)
class QueuedTask:
    """A job, or one task of an array: `restarts` tells a requeued one from what it was before."""

    state: str
    restarts: int
    reason: str

    @property
    def has_processes(self) -> bool:
        """Whether something may be running for it now."""
        return self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def tasks(names: Iterable[str], fresh: float = FRESH) -> dict[str, dict[str, QueuedTask]] | None:
    """By job name and id ("7", or "7_3" in an array) what waits or runs; None: no answer."""
    names, now = set(names), time.monotonic()
    if not names:
        return {}
    asked = {name for name in names if now - _known.get(name, (-1e9,))[0] > fresh}
    if asked:
        answer = _ask(asked)
        if answer is None:
            return None
        _known.update({name: (now, answer[name]) for name in asked})
    return {name: _known[name][1] for name in names}


def refresh(names: Iterable[str]) -> None:
    """Ask about all of these jobs now, so that later questions are answered from memory."""
    tasks(names, fresh=0)


def lives(job: Job, read: float) -> bool | None:
    """Whether the incarnation of a job that made a claim still has processes; None: unknown.

    Args:
        read: when the claim was read, by the monotonic clock. An older answer cannot tell that the
            job is dead: it may have started since.
    """
    for fresh in (FRESH, time.monotonic() - read):
        answer = tasks([job.name], fresh)
        if answer is None:
            return None
        task = answer[job.name].get(job.id)
        if task is not None and task.has_processes and task.restarts == job.restarts:
            return True
    return False


def myself() -> Job | None:
    """The job that this process belongs to; None outside of one of ours."""
    if "SLURM_JOB_ID" not in os.environ or os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{kind}_ID") for kind in ("JOB", "TASK"))
    return Job(
        id=f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"],
        name=os.environ.get("SLURM_JOB_NAME", ""),
        restarts=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
    )


def installed() -> bool:
    """Whether this machine belongs to a cluster: SLURM's commands, and a configuration for them.

    A controller that is down is still a cluster's.
    """
    if shutil.which("sbatch") is None:
        return False
    done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return "configuration source" not in done.stderr


def choose(cluster: str) -> Literal["slurm", "local", "debug"]:
    """Where `--cluster auto` runs: on SLURM if this machine belongs to a cluster, else here."""
    if cluster == "auto":
        return "slurm" if installed() else "local"
    return cast(Literal["slurm", "local", "debug"], cluster)


def max_array_size() -> int | None:
    """How many tasks a job array may have here; None: no answer."""
    done = _run(["scontrol", "show", "config"])
    for line in (done or "").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return int(value)
    return None


def cancel(ids: Iterable[str]) -> bool:
    """Cancel jobs or array tasks; False where SLURM does not answer."""
    ids = list(ids)
    done = [_run(["scancel", *ids[i : i + 500]]) for i in range(0, len(ids), 500)]
    return None not in done


def _ask(names: set[str]) -> dict[str, dict[str, QueuedTask]] | None:
    output = _run(["squeue", "-h", "-r", "-n", ",".join(sorted(names)), "-O", _FIELDS])
    if output is None:
        return None
    jobs: dict[str, dict[str, QueuedTask]] = {name: {} for name in names}
    for line in output.splitlines():
        number, state, restarts, name, *reason = line.split(None, 4)
        if name in jobs:
            jobs[name][number] = QueuedTask(state, int(restarts), "".join(reason).strip())
    return jobs


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
