"""Runs on a SLURM cluster: packs as job arrays through submitit, one sbatch for every array.

What is done, the records say; what runs, the claims; what waits, the notes of submissions and
squeue. submitit's job objects are never asked: without accounting they know nothing.
"""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from ...benchmarks.config import RunConfig
from ...benchmarks.context import RunContext
from ...benchmarks.store import Results
from ...methods.errors import ConfigError
from ..claims import Claims, filesystem_time
from ..forecast import Estimate
from ..machine import environment
from ..messages import Ended, Following, OnEvent, nothing_follows
from . import notes, packs, snapshot, squeue
from .packs import Pack
from .settings import Settings

LIVES = 3  # jobs that may end without a run's record before a waiting command gives it up
FULL = ("SubmitJobLimit", "QOSMaxSubmit", "AssocMaxSubmit", "temporarily unable to accept")


class SlurmError(ConfigError):
    """SLURM refuses a submission or does not answer; in one line."""


@dataclass
class Arrays:
    """Packs in chunks, each of which is one job array, with their expected seconds."""

    chunks: list[list[tuple[RunConfig, ...]]]
    seconds: list[list[float]]
    minutes: int  # the jobs' time limit

    @property
    def lengths(self) -> list[float]:
        return [seconds for chunk in self.seconds for seconds in chunk]


def arrange(configs: Sequence[RunConfig], settings: Settings, estimate: Estimate) -> Arrays:
    """Pack the runs and cut the packs into arrays that the cluster takes."""
    side_by_side = settings.runs_per_gpu * max(1, settings.gpus)
    packed = packs.pack_runs(configs, estimate, settings.pack_minutes * side_by_side)
    most = squeue.max_array_size() or 1000
    chunks = [packed[i : i + most] for i in range(0, len(packed), most)]
    seconds = [[sum(map(estimate, pack)) / side_by_side for pack in chunk] for chunk in chunks]
    longest = max((length for chunk in seconds for length in chunk), default=0)
    return Arrays(chunks, seconds, settings.time or max(60, round(2 * longest / 60)))


@contextmanager
def alone(folder: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Let only one process at a time plan and submit for a results folder."""
    lock = Claims(folder / "jobs", squeue)
    told = False
    while not lock.take("submission"):
        if not told:
            say("another command submits for this folder: waiting for it")
        told = True
        time.sleep(1)
    try:
        yield
    finally:
        lock.release("submission")


def tidy(folder: Path) -> None:
    """Remove the code and the saved states of sweeps that have ended."""
    with alone(folder), suppress(SlurmError):  # else the next command does
        used = {note.code for note in settle(folder).notes}
        snapshot.prune(folder, used)


def settle(folder: Path) -> notes.Queue:
    """Mark submissions that have ended; cancel those whose submitting process died."""
    queue = notes.look(folder, fresh=0)
    if not queue.answers:
        raise SlurmError("SLURM does not answer (squeue); nothing was submitted: try again")
    for note in queue.notes:
        if note.cut_short:
            _take_back(note)
        elif note.job is not None and not (squeue.tasks([note.name]) or {}).get(note.name):
            time.sleep(0.5)  # a job that is being requeued may be in no list for a moment
            if squeue.tasks([note.name], fresh=0) == {note.name: {}}:
                note.ended = True
                note.write()
    return notes.look(folder)


def _take_back(note: notes.Note) -> None:
    """Cancel what a submitting process left behind when it died too early."""
    answer = None
    for _ in range(10):  # its sbatch may have outlived it and be on its way
        answer = squeue.tasks([note.name], fresh=0)
        if answer is None or answer[note.name]:
            break
        time.sleep(0.5)
    numbers = {number.partition("_")[0] for number in (answer or {}).get(note.name, {})}
    if answer is None or not squeue.cancel(numbers):
        raise SlurmError("SLURM does not answer (scancel); nothing was submitted: try again")
    note.path.unlink(missing_ok=True)


class Slurm:
    """Submits and follows one results folder's runs.

    Args:
        table: as the user calls it; `--cancel` goes by it.
        names: how people call the runs, by id; may grow.
        estimate: the seconds that a run takes.
    """

    def __init__(
        self,
        results: Path,
        settings: Settings,
        context: RunContext,
        *,
        table: str,
        names: dict[str, str],
        estimate: Estimate,
        console: Console,
    ):
        self.folder = results.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results, self.claims = Results(self.folder), Claims(self.folder, squeue)
        self.settings, self.table, self.names, self.console = settings, table, names, console
        self.estimate = estimate
        self.context = replace(
            context, data=context.data.resolve(), cache=context.cache and context.cache.resolve()
        )
        self.began = filesystem_time(self.folder)  # failures from before are tried again
        self.cancelled = self._cancelled()  # those of before do not stop this command

    def submit(self, todo: Sequence[RunConfig]) -> int:
        """Submit runs that have no record, do not run and are not queued; returns how many."""
        with alone(self.folder, self.console.print):
            queue = settle(self.folder)
            glances = self.results.glance([config.run_id for config in todo])
            taken = queue.runs.keys() | self.claims.holders().keys()
            taken |= {
                run_id
                for run_id, glance in glances.items()
                if glance.status == "done" or glance.written >= self.began
            }
            todo = [config for config in todo if config.run_id not in taken]
            noted = {run_id for note in queue.notes for pack in note.packs for run_id in pack}
            if noted & {config.run_id for config in todo}:  # not lost, perhaps being requeued
                time.sleep(1)
                queued = notes.look(self.folder, fresh=0).runs.keys()
                again = queued | self.claims.holders().keys()
                todo = [config for config in todo if config.run_id not in again]
            if not todo:
                return 0
            code = snapshot.take(self.folder)
            arrays = arrange(todo, self.settings, self.estimate)
            sweep = f"{self.table}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            sent = self._submit_all(arrays, code, sweep)
            self.console.print(code.origin, highlight=False)
        return sent

    def wait(
        self,
        todo: Sequence[RunConfig],
        on_event: OnEvent,
        say: Callable[[str], None],
        following: Following = nothing_follows,
    ) -> list[str]:
        """Report the runs as their records appear; resubmit those whose jobs ended without one.

        Runs that follow from them are submitted as they become known.

        Returns:
            A line for every run that was given up.
        """
        left = {config.run_id: config for config in todo}
        tries: Counter[str] = Counter()
        suspects: set[str] = set()
        given_up = []
        while left:
            new = self._report_ended(left, on_event, following)
            if new:
                left |= {config.run_id: config for config in new}
                self.submit(new)
            queue = notes.look(self.folder, self.settings.poll_seconds / 2)
            say(queue.waiting() if queue.answers else "SLURM does not answer")
            if left and self._cancelled() - self.cancelled:
                raise SlurmError(f"cancelled with {len(left)} runs left; the same command goes on")
            if queue.answers and left:
                gone = left.keys() - queue.runs.keys() - self.claims.holders().keys()
                again = gone & suspects  # a record may show up late on a shared file system
                suspects = gone
                for run_id in [run_id for run_id in again if tries[run_id] >= LIVES - 1]:
                    settle(self.folder)
                    count, log = notes.lost(self.folder, [run_id]).get(run_id, (LIVES, "no log"))
                    name = self.names.get(run_id, left.pop(run_id).name)
                    given_up.append(f"{name}: {count} jobs ended without a record; {log}")
                if again := again & left.keys():
                    tries.update(again)
                    suspects = set()
                    self.submit([left[run_id] for run_id in again])
            if left:
                time.sleep(self.settings.poll_seconds)
        return given_up

    def _report_ended(
        self, left: dict[str, RunConfig], on_event: OnEvent, following: Following
    ) -> list[RunConfig]:
        """Report runs that have a record now, remove them from `left`, return what follows."""
        new: list[RunConfig] = []
        for run_id, glance in self.results.glance(left.keys()).items():
            if glance.status == "done" or glance.written >= self.began:
                record = self.results.read(run_id)
                if record is not None:
                    config = left.pop(run_id)
                    new += following(config)
                    on_event(Ended(config, -1, record))
        return new

    def _submit_all(self, arrays: Arrays, code: snapshot.Snapshot, sweep: str) -> int:
        """One sbatch for every chunk; the arrays share the limit on jobs at once."""
        lanes = min(self.settings.max_parallel or len(arrays.chunks), len(arrays.chunks))
        before: dict[
            int, str | None
        ] = {}  # the last array of every lane, which the next one waits for
        sent = 0
        for number, chunk in enumerate(arrays.chunks):
            lane = number % lanes
            share = len(chunk)
            if self.settings.max_parallel:
                share, rest = divmod(self.settings.max_parallel, lanes)
                share += lane < rest
            more: dict[str, Any] = {"array_parallelism": share}
            if lane in before and self.settings.max_parallel:
                more["dependency"] = f"afterany:{before[lane]}"
            try:
                note = self._submit(chunk, arrays.minutes, code, sweep, more)
            except SlurmError as error:
                if sent and any(word in str(error) for word in FULL):
                    self.console.print(f"the queue takes no more for now: {error}", style="yellow")
                    break  # what is left is missing, and submitted the next time
                raise
            before[lane] = note.job
            sent += sum(map(len, chunk))
            self.console.print(
                f"job {note.job}: {sum(map(len, chunk))} runs in {len(chunk)} packs, "
                f"logs in {note.log(0).parent}",
                highlight=False,
            )
        return sent

    def _submit(
        self,
        chunk: list[tuple[RunConfig, ...]],
        minutes: int,
        code: snapshot.Snapshot,
        sweep: str,
        more: dict[str, Any],
    ) -> notes.Note:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        jobs = self.folder / "jobs"
        jobs.mkdir(parents=True, exist_ok=True)
        note = notes.create(
            self.folder,
            f"rlrr-{secrets.token_hex(4)}",
            table=self.table,
            sweep=sweep,
            code=code.folder.name,
            minutes=minutes,
            packs=[[config.run_id for config in pack] for pack in chunk],
            submitted=filesystem_time(jobs),
        )
        # a countdown that never ends: submitit's own end would look like a failure of the run
        executor = submitit.SlurmExecutor(self.folder / "logs" / sweep, max_num_timeout=10**6)
        parameters = self.settings.parameters()
        extra = parameters.pop("additional_parameters") | {"chdir": str(code.folder)}
        path = f"export PYTHONPATH={code.folder}${{PYTHONPATH:+:$PYTHONPATH}}"
        executor.update_parameters(
            **parameters,
            **more,
            job_name=note.name,
            time=minutes,
            setup=[*self.settings.setup, path],
            additional_parameters=extra,
        )
        context = replace(
            self.context,
            plugins=code.plugins,
            resume=self.folder / "resume" / code.folder.name,
            resume_seconds=min(180, 3 * minutes),  # little is lost, in a short job too
        )
        # of an allocation that this command may have been typed in
        outer = [k for k in os.environ if k.startswith("SLURM_") and k != "SLURM_CONF"]
        try:
            with environment(outer), redirect_stderr(StringIO()), executor.batch():
                sent = [
                    executor.submit(
                        Pack(
                            configs=pack,
                            context=context,
                            results=self.folder,
                            names={c.run_id: self.names.get(c.run_id, c.name) for c in pack},
                            logs=f"logs/{sweep}",
                            minutes=minutes,
                            warning=self.settings.warning_seconds,
                            submitted=note.submitted,
                            runs_per_gpu=self.settings.runs_per_gpu,
                        )
                    )
                    for pack in chunk
                ]
        except (FailedJobError, FailedSubmissionError) as error:
            note.path.unlink(missing_ok=True)
            lines = [line for line in str(error).splitlines() if "error:" in line]
            raise SlurmError(" ".join(lines) or str(error).splitlines()[-1]) from None
        note.job = sent[0].job_id.partition("_")[0]
        note.write()
        return note

    def _cancelled(self) -> set[str]:
        """Submissions for this table that somebody has cancelled."""
        every = notes.read_all(self.folder)
        return {note.name for note in every if note.cancelled and note.table == self.table}
