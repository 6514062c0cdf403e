"""Packs: runs that one job does one after another, which pays start-up, weights and data once.

`plan` sizes them, `Pack` is what a job executes.
"""

import math
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import tasks
from benchmarks.config import RunConfig
from benchmarks.record import Results, failed

from . import squeue
from .claims import Claims
from .cluster import environment, visible_gpus
from .grid import Seen
from .worker import die_with_parent, do

Estimate = Callable[[RunConfig], float]


def estimator(
    configs: Iterable[RunConfig], seen: dict[str, Seen], prior: dict[str, float]
) -> tuple[Estimate, Collection[tuple]]:
    """Seconds that a run will take, and the kinds of runs of which records tell.

    Earlier records of the same method, backbone, task and epochs tell (their median); for others
    the prior of the settings file: seconds to start, to train and to score 1000 images.
    """
    took: dict[tuple, list[float]] = {}
    for config in configs:
        record = seen.get(config.run_id)
        if record is not None and record.status == "done":
            took.setdefault(kind(config), []).append(record.seconds)
    known = {key: statistics.median(values) for key, values in took.items()}

    def estimate(config: RunConfig) -> float:
        if kind(config) in known:
            return known[kind(config)]
        sizes = tasks.get(config.benchmark, config.task).sizes
        epochs = config.recipe.epochs + config.recipe.cooldown_epochs
        scored = epochs // config.eval_every if config.eval_every else 1
        trained = prior["train_1000_images"] * sizes[config.train_split] * epochs
        return (
            prior["start"]
            + (trained + prior["score_1000_images"] * sizes[config.eval_split] * scored) / 1000
        )

    return estimate, known


def kind(config: RunConfig) -> tuple:
    """What runs have in common that take equally long."""
    recipe = config.recipe
    epochs = recipe.epochs + recipe.cooldown_epochs
    return config.method, config.backbone, config.benchmark, config.task, epochs, config.eval_every


def plan(
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


def wall_seconds(lengths: Iterable[float], at_once: int | None) -> float:
    """How long packs of these lengths take when nothing waits, so many of them at a time."""
    lengths = list(lengths)
    ends = [0.0] * min(at_once or len(lengths), len(lengths))
    for seconds in lengths:
        first = min(range(len(ends)), key=ends.__getitem__)
        ends[first] += seconds
    return max(ends, default=0.0)


@dataclass
class Pack:
    """The body of a job: does its runs, each with a claim and a record of its own.

    place: the fields of benchmarks.run.Place; logs: the sweep's log folder, relative to results;
    minutes: the job's time limit, warning: seconds before it that SLURM signals; submitted: by the
    file server's clock.
    """

    configs: tuple[RunConfig, ...]
    place: dict[str, Any]
    results: Path
    plugins: list[str]
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
        threads = max(1, _cores() // count)
        if count == 1:
            self.work(0, 1, threads)
            return f"{len(self.configs)} runs"
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=_work, args=(self, i, count, threads), daemon=True)
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

    def work(self, number: int, count: int, threads: int) -> None:
        """Do the runs in this process; each of `count` workers begins at another one."""
        import torch

        import methods
        from benchmarks import devices, run

        torch.set_num_threads(threads)
        devices.keep_freed_memory()
        for plugin in self.plugins:
            methods.add_plugin(plugin)
        place = dict(self.place)
        if visible_gpus() and shutil.which("nvidia-smi"):  # never the CPU because a GPU is broken
            place.setdefault("device", "cuda")
        where, store, claims = run.Place(**place), Results(self.results), Claims(self.results)
        device = devices.choose(where.device)
        devices.check(device)
        job = squeue.myself()
        log = {"log": f"{self.logs}/{job['id']}_0_log.out"} if job else {}
        left = self.left()
        start = number * len(left) // count
        waiting = left[start:] + left[:start]
        for _ in range(2):  # what another process has is looked at once more
            taken = []
            for config in waiting:
                said, record = do(config, where, store, claims, **log)
                if said == "taken":
                    taken.append(config)
                    continue
                result = record["error"] or f"{record['seconds_total']:.0f} s"
                print(f"{time.strftime('%T')} {said} {config.run_id} {config.name}: {result}")
                sys.stdout.flush()
                if said == "failed":
                    devices.check(device)  # else all that is left would fail at once
            waiting = taken
        for config in waiting:
            print(f"{config.run_id} {config.name}: left to the process that has it")

    def left(self) -> list[RunConfig]:
        """The runs without a record; one of a failure counts if it is not from before this pack."""
        store = Results(self.results)
        found = []
        for config in self.configs:
            record = store.read(config.run_id)
            if record is not None and record["status"] == "failed":
                written = store.path(config.run_id).stat().st_mtime
                record = record if written >= self.submitted else None
            if record is None:
                found.append(config)
        return found

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
            mine, store = squeue.myself(), Results(self.results)
            for run_id, holder in Claims(self.results).holders().items():
                for config in left:
                    if config.run_id == run_id and holder.get("job") == mine:
                        store.write(failed(config, error))
            left = self.left()
        return DelayedSubmission(replace(self, configs=tuple(left)))

    def _time_is_up(self) -> bool:
        # SLURM's signal may come a minute early, and its clock started before ours
        return time.time() - self.began > 60 * self.minutes - self.warning - 75

    def _progress(self) -> bool:
        """Whether a run has saved its state since this job began."""
        folder = self.place.get("resume")
        files = [Path(folder) / f"{config.run_id}.pt" for config in self.configs] if folder else []
        return any(file.exists() and file.stat().st_mtime > self.began for file in files)


def _work(pack: Pack, number: int, count: int, threads: int) -> None:
    threading.Thread(target=die_with_parent, args=(os.getppid(),), daemon=True).start()
    pack.work(number, count, threads)


def _cores() -> int:
    """The cores that this job was given."""
    given = os.environ.get("SLURM_CPUS_PER_TASK")
    return int(given) if given else len(os.sched_getaffinity(0))
