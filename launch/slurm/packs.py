"""Packs: runs that one job does one after another, which pays start-up, weights and data once.

`pack_runs` sizes them, `Pack` is what a job executes.
"""

import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...benchmarks import provenance
from ...benchmarks.config import RunConfig
from ...benchmarks.context import RunContext
from ...benchmarks.record import RunRecord
from ...benchmarks.store import Results
from ..claims import Claims
from ..execution import begin, do
from ..forecast import Estimate
from ..machine import die_with_parent, environment, threads, visible_gpus
from ..messages import Taken
from . import squeue


def pack_runs(
    configs: Sequence[RunConfig], estimate: Estimate, minutes: float
) -> list[tuple[RunConfig, ...]]:
    """Packs of about so many minutes, each of one backbone, with runs on the same data adjacent."""
    packs: list[list[RunConfig]] = []
    filled = 0.0
    for config in sorted(configs, key=lambda c: (c.backbone, c.benchmark, c.task)):
        seconds = estimate(config)
        same = packs and packs[-1][0].backbone == config.backbone
        if not same or filled + seconds > 60 * minutes:
            packs.append([])
            filled = 0.0
        packs[-1].append(config)
        filled += seconds
    return [tuple(pack) for pack in packs]


@dataclass
class Pack:
    """The body of a job: does its runs, each with a claim and a record of its own.

    names: how people call the runs, by id; logs: the sweep's log folder, relative to results;
    minutes: the job's time limit, warning: seconds before it that SLURM signals; submitted: by the
    file server's clock.
    """

    configs: tuple[RunConfig, ...]
    context: RunContext
    results: Path
    names: Mapping[str, str] = field(default_factory=dict)
    logs: str = ""
    minutes: float = math.inf
    warning: float = 0.0
    submitted: float = math.inf
    runs_per_gpu: int = 1
    began: float = 0.0

    def __call__(self) -> str:
        """Do what is left; returns a line for the log."""
        self.began = time.time()
        gpus = visible_gpus()
        count = self.runs_per_gpu * max(1, len(gpus))
        if count == 1:
            self.work(0, 1, threads(1))
            return f"{len(self.configs)} runs"
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=_work, args=(self, i, count, threads(count)), daemon=True)
            for i in range(count)
        ]
        # SLURM signals every process of a step. This one answers for all, so the others are
        # started with these signals blocked; SIGTERM still ends them.
        blocked = {signal.SIGUSR1, signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        for i, worker in enumerate(workers):
            with environment(CUDA_VISIBLE_DEVICES=gpus[i % len(gpus)] if gpus else None):
                worker.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        for worker in workers:
            worker.join()
        codes = [worker.exitcode for worker in workers]
        if any(codes):
            raise RuntimeError(f"workers ended with exit codes {codes}")
        return f"{len(self.configs)} runs by {count} workers"

    def work(self, number: int, count: int, most_threads: int) -> None:
        """Do the runs in this process; each of `count` workers begins at another one."""
        context = self.context
        if context.device is None and visible_gpus() and shutil.which("nvidia-smi"):
            context = replace(context, device="cuda")  # never the CPU because a GPU is broken
        device = begin(context, most_threads)
        from ...benchmarks import devices

        claims, job = Claims(self.results, squeue), squeue.myself()
        log = f"{self.logs}/{job.id}_0_log.out" if job else None
        left = self.left()
        start = number * len(left) // count
        waiting = left[start:] + left[:start]
        for _ in range(2):  # what another process has is looked at once more
            taken = []
            for config in waiting:
                reply = do(config, context, claims, log=log)
                if isinstance(reply, Taken):
                    taken.append(config)
                    continue
                self._print(reply.record)
                if not reply.record.done:
                    devices.check(device)  # else all that is left would fail at once
            waiting = taken
        for config in waiting:
            print(f"{config.run_id} {self._name(config)}: left to the process that has it")

    def _name(self, config: RunConfig) -> str:
        return self.names.get(config.run_id, config.name)

    def _print(self, record: RunRecord) -> None:
        """A line in the log; of a failure the frames too."""
        told = record.error or f"{record.seconds_total:.0f} s"
        name = self._name(record.config)
        print(f"{time.strftime('%T')} {record.status} {record.run_id} {name}: {told}")
        for frame in record.traceback:
            print(f"    {frame}")
        sys.stdout.flush()

    def left(self) -> list[RunConfig]:
        """The runs without a record; one of a failure counts if it is not from before this pack."""
        results = Results(self.results)
        left = []
        for config in self.configs:
            record = results.read(config.run_id)
            if record is not None and not record.done:
                written = results.path(config.run_id).stat().st_mtime
                record = record if written >= self.submitted else None
            if record is None:
                left.append(config)
        return left

    def checkpoint(self) -> Any:
        """What submitit requeues at a preemption or time-out: a pack of what is left.

        A run that the time limit cut short without any progress would be cut short for ever: that
        is recorded as its failure.
        """
        from submitit.core.utils import DelayedSubmission

        left = self.left()
        if not left:
            sys.exit(0)
        if self._time_is_up() and len(left) == len(self.configs) and not self._progress():
            error = f"not done within the job's {self.minutes:.0f} minutes; raise --time"
            mine, results = squeue.myself(), Results(self.results)
            for run_id, holder in Claims(self.results, squeue).holders().items():
                for config in left:
                    if config.run_id == run_id and holder.job == mine:
                        code = provenance.at_start().to_dict()
                        results.write(RunRecord.failed(config, error, "time_limit", **code))
            left = self.left()
        return DelayedSubmission(replace(self, configs=tuple(left)))

    def _time_is_up(self) -> bool:
        # SLURM's signal may come a minute early, and its clock started before ours
        return time.time() - self.began > 60 * self.minutes - self.warning - 75

    def _progress(self) -> bool:
        """Whether a run has saved its state since this job began."""
        states = [self.context.saved_state(config.run_id) for config in self.configs]
        return any(path and path.exists() and path.stat().st_mtime > self.began for path in states)


def _work(pack: Pack, number: int, count: int, most_threads: int) -> None:
    threading.Thread(target=die_with_parent, args=(os.getppid(),), daemon=True).start()
    pack.work(number, count, most_threads)
