"""Where runs happen: worker processes on this machine. SLURM has a file of its own.

A place to run takes configs and reports `Event`s; it knows nothing of tables.
"""

import multiprocessing
import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.config import ConfigError, RunConfig
from benchmarks.record import Results, failed

from .claims import Claims
from .worker import work


@dataclass(frozen=True)
class Event:
    """What a place reports: kind is prepared, start, epoch, done or failed.

    details: (epoch, epochs, images per second) of an epoch; the record of a done or failed run.
    """

    kind: str
    config: RunConfig
    worker: int
    details: Any = None


Report = Callable[[Event], None]
More = Callable[[RunConfig], list[RunConfig]]  # runs that are known when this one has ended


def nothing(config: RunConfig) -> list[RunConfig]:
    return []


class BadInput(ConfigError):
    """A worker found data or weights wrong before the first run."""


@dataclass
class _Worker:
    number: int
    process: multiprocessing.Process
    pipe: Connection
    config: RunConfig | None = None  # what it does now
    ready: bool = False


class Local:
    """Worker processes on this machine: one a GPU, or as many as the cores are good for."""

    def __init__(
        self,
        results: Path,
        place: dict[str, Any],
        plugins: list[str] | None = None,
        workers: int | None = None,
    ):
        self.gpus = visible_gpus()
        self.count = workers or default_workers()
        self.results, self.claims = Results(results), Claims(results)
        self.place = {"threads": max(1, (os.cpu_count() or 1) // self.count), **place}
        self.plugins = plugins or []
        self.workers: list[_Worker] = []

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *exception) -> None:
        """Stop the workers; a run that one was doing has no record and will be done again."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self.claims.clean()

    def prepare(self, configs: list[RunConfig], report: Report) -> None:
        """Check and load weights and data for these configs before anything is trained.

        Raises:
            BadInput: with the first complaint.
        """
        for kind, worker, config, details in self._loop("prepare", deque(configs)):
            if kind == "bad input":
                raise BadInput(details)
            if kind == "died":
                raise BadInput(f"a worker died while preparing {config.name} ({details})")
            if kind == "prepared":
                report(Event("prepared", config, worker))

    def run(self, configs: list[RunConfig], report: Report, more: More = nothing) -> None:
        """Do the runs, and those that follow from them (`more`); each leaves a record.

        A run whose worker dies is recorded as failed.
        """
        waiting = deque(configs)
        for kind, worker, config, details in self._loop("run", waiting):
            if kind == "taken":  # another sweep does it: look again later
                waiting.append(config)
            elif kind == "died":
                record = failed(config, f"the worker process died ({details})")
                if self.claims.take(config.run_id):
                    self.results.write(record)
                    self.claims.release(config.run_id)
                report(Event("failed", config, worker, record))
            else:
                if kind in ("done", "failed"):
                    waiting.extend(more(config))
                report(Event(kind, config, worker, details))

    def _loop(
        self, kind: str, waiting: deque[RunConfig]
    ) -> Iterator[tuple[str, int, RunConfig, Any]]:
        """Hand out the configs and yield what the workers say, until all is answered."""
        busy: dict[int, RunConfig] = {}
        while waiting or busy:
            while len(self.workers) < min(self.count, len(waiting) + len(busy)):
                self._start(len(self.workers))
            for worker in self.workers:
                if worker.ready and worker.config is None and waiting:
                    worker.config = busy[worker.number] = waiting.popleft()
                    worker.pipe.send((kind, worker.config))
                    yield "start", worker.number, worker.config, None
            pipes = {worker.pipe: worker for worker in self.workers}
            for pipe in wait(list(pipes), timeout=1.0):
                worker = pipes[pipe]
                try:
                    said, _, details = pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    lost, code = worker.config, worker.process.exitcode
                    busy.pop(worker.number, None)
                    if not worker.ready:
                        raise BadInput(f"worker processes cannot start (exit {code})") from None
                    self._start(worker.number)
                    if lost:
                        reason = f"signal {-code}" if code and code < 0 else f"exit code {code}"
                        yield "died", worker.number, lost, reason
                    continue
                if said == "ready":
                    worker.ready = True
                    continue
                if not worker.ready:
                    raise BadInput(details)
                config = worker.config
                if said != "epoch":
                    worker.config = None
                    busy.pop(worker.number, None)
                if said == "broken":  # its run failed, and took the process's GPU along
                    worker.process.join()
                    self._start(worker.number)
                    said = "failed"
                yield said, worker.number, config, details

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        place = dict(self.place)
        if self.gpus and "device" not in place:
            place["device"] = "cuda:0"
        process = context.Process(
            target=work, args=(theirs, place, str(self.results.folder), self.plugins), daemon=True
        )
        with environment(CUDA_VISIBLE_DEVICES=self._gpu(number)):
            process.start()
        theirs.close()
        self.workers[number : number + 1] = [_Worker(number, process, mine)]

    def _gpu(self, number: int) -> str | None:
        return self.gpus[number % len(self.gpus)] if self.gpus else None


def default_workers() -> int:
    """One a GPU, or as many as the cores are good for."""
    return len(visible_gpus()) or max(1, min(4, os.cpu_count() or 2))


def visible_gpus() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without loading CUDA."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        # CUDA too takes none from the first name on that is none, such as -1
        return list(takewhile(lambda name: re.match(r"\d+$|GPU-|MIG-", name.strip()), names))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU")]


@contextmanager
def environment(remove: Iterable[str] = (), **values: str | None):
    """Environment variables for a child that is started inside; those of None stay as they are."""
    old = {key: os.environ.get(key) for key in [*remove, *values]}
    try:
        for key in remove:
            os.environ.pop(key, None)
        for key, value in values.items():
            if value is not None:
                os.environ[key] = value
        yield
    finally:
        for key, value in old.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
