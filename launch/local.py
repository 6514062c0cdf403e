"""Runs on this machine: worker processes, one a GPU or as many as the cores are good for.

It takes configs and reports `Event`s; it knows nothing of tables.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ..benchmarks import provenance
from ..benchmarks.config import RunConfig
from ..benchmarks.context import RunContext
from ..benchmarks.outcome import EpochDone
from ..benchmarks.record import RunRecord
from ..benchmarks.store import Results
from ..methods.errors import ConfigError
from .claims import Claims
from .machine import default_workers, environment, threads, visible_gpus
from .messages import (
    Ended,
    EpochEnded,
    Event,
    Execute,
    Finished,
    Following,
    InputsLoaded,
    OnEvent,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Reply,
    Started,
    Taken,
    nothing_follows,
)
from .slurm import squeue
from .worker import work


class BadInput(ConfigError):
    """A worker found data or weights wrong before the first run."""


@dataclass(frozen=True)
class _Died:
    """A worker's process has ended; why."""

    reason: str


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    config: RunConfig | None = None  # what it does now
    ready: bool = False


class Local:
    """Worker processes on this machine."""

    def __init__(self, results: Path, context: RunContext, workers: int | None = None):
        self.gpus = visible_gpus()
        self.count = workers or default_workers()
        self.threads = threads(self.count)
        self.results, self.claims = Results(results), Claims(results, squeue)
        if self.gpus and context.device is None:
            context = replace(context, device="cuda:0")
        self.context = context
        self.workers: list[_Worker] = []

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *exception: object) -> None:
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

    def prepare(self, configs: list[RunConfig], on_event: OnEvent) -> None:
        """Load weights and data for these configs, which checks them before anything is trained.

        Raises:
            BadInput: with the first complaint.
        """
        for worker, config, reply in self._loop(Prepare, deque(configs)):
            if isinstance(reply, Refused):
                raise BadInput(reply.message)
            if isinstance(reply, _Died):
                raise BadInput(f"a worker died while preparing {config.name} ({reply.reason})")
            if isinstance(reply, InputsLoaded):
                on_event(Prepared(config, worker))

    def run(
        self, configs: list[RunConfig], on_event: OnEvent, following: Following = nothing_follows
    ) -> None:
        """Do the runs, and those that follow from them; each leaves a record.

        A run whose worker dies is recorded as failed.
        """
        waiting = deque(configs)
        for worker, config, reply in self._loop(Execute, waiting):
            event: Event
            if isinstance(reply, Taken):  # another sweep does it: look again later
                waiting.append(config)
                continue
            if isinstance(reply, EpochDone):
                event = EpochEnded(config, worker, reply)
            elif isinstance(reply, Finished):
                waiting.extend(following(config))
                event = Ended(config, worker, reply.record)
            elif isinstance(reply, _Died):
                event = Ended(config, worker, self._record_death(config, reply.reason))
            else:
                event = Started(config, worker)
            on_event(event)

    def _record_death(self, config: RunConfig, reason: str) -> RunRecord:
        error = f"the worker process died ({reason})"
        code = provenance.at_start().to_dict()
        record = RunRecord.failed(config, error, "worker_died", **code)
        if self.claims.take(config.run_id):
            self.results.write(record)
            self.claims.release(config.run_id)
        return record

    def _loop(
        self, command: type[Prepare] | type[Execute], waiting: deque[RunConfig]
    ) -> Iterator[tuple[int, RunConfig, Reply | _Died | None]]:
        """Hand out the configs and yield the workers' replies until every config is answered.

        None instead of a reply: the worker has just been given the config.
        """
        while waiting or any(worker.config for worker in self.workers):
            busy = sum(worker.config is not None for worker in self.workers)
            while len(self.workers) < min(self.count, len(waiting) + busy):
                self._start(len(self.workers))
            for worker in self.workers:
                if worker.ready and worker.config is None and waiting:
                    worker.config = waiting.popleft()
                    worker.pipe.send(command(worker.config))
                    yield worker.number, worker.config, None
            pipes = {worker.pipe: worker for worker in self.workers}
            for pipe in wait(list(pipes), timeout=1.0):
                assert isinstance(pipe, Connection)
                worker, reply = pipes[pipe], self._reply(pipes[pipe])
                config = worker.config
                if not worker.ready:
                    if isinstance(reply, _Died):
                        raise BadInput(f"worker processes cannot start ({reply.reason})")
                    if isinstance(reply, Refused):
                        raise BadInput(reply.message)
                if isinstance(reply, Ready):
                    worker.ready = True
                    continue
                if not isinstance(reply, EpochDone):
                    worker.config = None
                if isinstance(reply, _Died) or (isinstance(reply, Finished) and reply.device_lost):
                    worker.process.join()
                    self._start(worker.number)
                if config is not None:
                    yield worker.number, config, reply

    def _reply(self, worker: _Worker) -> Reply | _Died:
        try:
            return worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode
            return _Died(f"signal {-code}" if code and code < 0 else f"exit code {code}")

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(
            target=work,
            args=(theirs, self.context, self.results.folder, self.threads),
            daemon=True,
        )
        with environment(CUDA_VISIBLE_DEVICES=self._gpu(number)):
            process.start()
        theirs.close()
        self.workers[number : number + 1] = [_Worker(number, process, mine)]

    def _gpu(self, number: int) -> str | None:
        return self.gpus[number % len(self.gpus)] if self.gpus else None
