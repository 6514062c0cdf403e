"""Runs on a SLURM cluster: packs as job arrays through submitit, one sbatch for every chunk.

What is done, the records say; what runs, the claims; what waits, the notes of submissions and
squeue. submitit's job objects are never asked: without accounting they know nothing.
"""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.config import ConfigError, RunConfig
from benchmarks.record import Results

from . import jobs, packs, snapshot, squeue
from .claims import Claims, filesystem_time
from .cluster import Event, More, Report, environment, nothing
from .grid import survey
from .packs import Estimate, Pack
from .settings import Settings

LIVES = 3  # jobs that may end without a run's record before a waiting command gives it up
FULL = ("SubmitJobLimit", "QOSMaxSubmit", "AssocMaxSubmit", "temporarily unable to accept")


class SlurmError(ConfigError):
    """SLURM refuses a submission or does not answer; in one line."""


def choose(cluster: str) -> str:
    """Where `--cluster auto` runs: on SLURM if this machine belongs to a cluster, else here."""
    if cluster == "auto":
        return "slurm" if squeue.installed() else "local"
    return cluster


@dataclass
class Plan:
    """Packs in chunks, each of which is one job array, with their expected seconds."""

    chunks: list[list[tuple[RunConfig, ...]]]
    seconds: list[list[float]]
    minutes: int  # the jobs' time limit

    @property
    def lengths(self) -> list[float]:
        return [seconds for chunk in self.seconds for seconds in chunk]


def plan(configs: Sequence[RunConfig], settings: Settings, estimate: Estimate) -> Plan:
    """Pack the runs and cut the packs into arrays that the cluster takes."""
    side_by_side = settings.runs_per_gpu * max(1, settings.gpus)
    found = packs.plan(configs, estimate, settings.pack_minutes * side_by_side)
    most = squeue.max_array_size() or 1000
    chunks = [found[i : i + most] for i in range(0, len(found), most)]
    seconds = [[sum(map(estimate, pack)) / side_by_side for pack in chunk] for chunk in chunks]
    longest = max((length for chunk in seconds for length in chunk), default=0)
    return Plan(chunks, seconds, settings.time or max(60, round(2 * longest / 60)))


class Slurm:
    """A results folder's seat on the cluster."""

    def __init__(
        self,
        results: Path,
        settings: Settings,
        place: dict[str, Any],
        plugins: list[str],
        table: str,
        console: Console,
    ):
        self.results, self.claims = Results(results.resolve()), Claims(results.resolve())
        self.folder = results.resolve()
        self.settings, self.plugins, self.table, self.console = settings, plugins, table, console
        paths = {k: v.resolve() if isinstance(v, Path) else v for k, v in place.items()}
        self.place = {key: value for key, value in paths.items() if value is not None}
        self.cancelled = self._cancelled()  # those of before do not stop this command

    def submit(self, todo: Sequence[RunConfig], estimate: Estimate, began: float) -> int:
        """Submit what has no record since `began`, does not run and is not queued; how many."""
        with self._alone():
            queue = self.settle()
            seen = survey([config.run_id for config in todo], self.results)
            taken = queue.runs.keys() | self.claims.holders().keys()
            taken |= {k for k, s in seen.items() if s.status == "done" or s.written >= began}
            todo = [config for config in todo if config.run_id not in taken]
            noted = {run_id for note in queue.notes for pack in note.packs for run_id in pack}
            if noted & {config.run_id for config in todo}:  # not lost, perhaps being requeued
                time.sleep(1)
                again = jobs.look(self.folder, fresh=0).runs.keys() | self.claims.holders().keys()
                todo = [config for config in todo if config.run_id not in again]
            if not todo:
                return 0
            code = snapshot.take(self.folder, self.plugins)
            planned = plan(todo, self.settings, estimate)
            sweep = f"{self.table}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            sent = self._submit_all(planned, code, sweep)
            self.console.print(code.origin, highlight=False)
        return sent

    def tidy(self) -> None:
        """Remove the code of sweeps that have ended, and what their runs left half-done."""
        with self._alone(), suppress(SlurmError):  # else the next command does
            used = {note.code for note in self.settle().notes}
            snapshot.prune(self.folder, used)

    def settle(self) -> jobs.Queue:
        """Mark the submissions that have ended; take back those that were cut short."""
        queue = jobs.look(self.folder, fresh=0)
        if not queue.answers:
            raise SlurmError("SLURM does not answer (squeue); nothing was submitted: try again")
        for note in queue.notes:
            if note.cut_short:
                self._take_back(note)
            elif note.job is not None and not squeue.tasks([note.name])[note.name]:
                time.sleep(0.5)  # a job that is being requeued may be in no list for a moment
                if squeue.tasks([note.name], fresh=0) == {note.name: {}}:
                    note.ended = True
                    note.write()
        return jobs.look(self.folder)

    def wait(
        self, todo: Sequence[RunConfig], estimate: Estimate, began: float, report: Report,
        say: Callable[[str], None], more: More = nothing,
    ) -> list[str]:  # fmt: skip
        """Report the runs as their records appear; resubmit those whose jobs ended without one.

        Runs that follow from them (`more`) are submitted as they become known.

        Returns:
            A line for every run that was given up.
        """
        left = {config.run_id: config for config in todo}
        tries: Counter[str] = Counter()
        suspects: set[str] = set()
        given_up = []
        while left:
            following: list[RunConfig] = []
            for run_id, seen in survey(left, self.results).items():
                if seen.status == "done" or seen.written >= began:
                    record, config = self.results.read(run_id), left.pop(run_id)
                    following += more(config)
                    report(Event(record["status"], config, -1, record))
            if following:
                left |= {config.run_id: config for config in following}
                self.submit(following, estimate, began)
            queue = jobs.look(self.folder, self.settings.poll_seconds / 2)
            say(queue.waiting() if queue.answers else "SLURM does not answer")
            if left and self._cancelled() - self.cancelled:
                raise SlurmError(f"cancelled with {len(left)} runs left; the same command goes on")
            if queue.answers and left:
                gone = left.keys() - queue.runs.keys() - self.claims.holders().keys()
                again = gone & suspects  # a record may show up late on a shared file system
                suspects = gone
                for run_id in [run_id for run_id in again if tries[run_id] >= LIVES - 1]:
                    self.settle()
                    count, log = jobs.lost(self.folder, [run_id]).get(run_id, (LIVES, "no log"))
                    config = left.pop(run_id)
                    given_up.append(f"{config.name}: {count} jobs ended without a record; {log}")
                if again := again & left.keys():
                    tries.update(again)
                    suspects = set()
                    self.submit([left[run_id] for run_id in again], estimate, began)
            if left:
                time.sleep(self.settings.poll_seconds)
        return given_up

    def _submit_all(self, planned: Plan, code: snapshot.Snapshot, sweep: str) -> int:
        """One sbatch for every chunk; the arrays share the limit on jobs at once."""
        lanes = min(self.settings.max_parallel or len(planned.chunks), len(planned.chunks))
        before: dict[int, str] = {}  # the last array of every lane, which the next one waits for
        sent = 0
        for number, chunk in enumerate(planned.chunks):
            lane = number % lanes
            share = len(chunk)
            if self.settings.max_parallel:
                share, rest = divmod(self.settings.max_parallel, lanes)
                share += lane < rest
            more: dict[str, Any] = {"array_parallelism": share}
            if lane in before and self.settings.max_parallel:
                more["dependency"] = f"afterany:{before[lane]}"
            try:
                note = self._submit(chunk, planned.minutes, code, sweep, more)
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
    ) -> jobs.Note:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        jobs_folder = self.folder / "jobs"
        jobs_folder.mkdir(parents=True, exist_ok=True)
        note = jobs.new(
            self.folder,
            f"rlrr-{secrets.token_hex(4)}",
            table=self.table,
            sweep=sweep,
            code=code.folder.name,
            minutes=minutes,
            packs=[[config.run_id for config in pack] for pack in chunk],
            submitted=filesystem_time(jobs_folder),
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
        place = self.place | {"resume": self.folder / "resume" / code.folder.name}
        place["resume_seconds"] = min(180, 3 * minutes)  # little is lost, in a short job too
        # of an allocation that this command may have been typed in
        outer = [k for k in os.environ if k.startswith("SLURM_") and k != "SLURM_CONF"]
        try:
            with environment(outer), redirect_stderr(StringIO()), executor.batch():
                sent = [
                    executor.submit(
                        Pack(
                            pack,
                            place,
                            self.folder,
                            code.plugins,
                            f"logs/{sweep}",
                            minutes,
                            self.settings.warning_seconds,
                            note.submitted,
                            self.settings.runs_per_gpu,
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
        found = jobs.read_all(self.folder)
        return {note.name for note in found if note.cancelled and note.table == self.table}

    def _take_back(self, note: jobs.Note) -> None:
        """Cancel what a submitting process left behind that died before its packs were in place."""
        for _ in range(10):  # its sbatch may have outlived it and be on its way
            found = squeue.tasks([note.name], fresh=0)
            if found is None or found[note.name]:
                break
            time.sleep(0.5)
        numbers = {number.partition("_")[0] for number in (found or {}).get(note.name, {})}
        if found is None or not squeue.cancel(numbers):
            raise SlurmError("SLURM does not answer (scancel); nothing was submitted: try again")
        note.path.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time plans and submits for a results folder."""
        lock = Claims(self.folder / "jobs")
        told = False
        while not lock.take("submission"):
            if not told:
                self.console.print("another command submits for this folder: waiting for it")
            told = True
            time.sleep(1)
        try:
            yield
        finally:
            lock.release("submission")
