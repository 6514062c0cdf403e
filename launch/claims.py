"""Claims: a run belongs to one process at a time, across sweeps and nodes.

    <results>/claims/<run_id>.<generation>.json    {"host", "pid", "born", "started", "job"}

A claim is made by hard-linking a finished file, which only one process can do. The claim of a dead
process is not removed first, since by then it might be somebody's new one: it is superseded by the
next generation, which again only one process can make.

Whether the owner lives: on this host its process tells; SLURM tells of its jobs; elsewhere the
claim's time of change does, which the owner renews every half a minute.
"""

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..benchmarks.files import read_bytes, remove_drafts

BEAT = 30  # seconds between two renewals of a claim
STALE = 600  # seconds without one after which an owner that nobody can see counts as dead


@dataclass(frozen=True)
class Job:
    """A scheduler's job or array task; `restarts` tells a requeued one from what it was before."""

    id: str
    name: str
    restarts: int


@dataclass(frozen=True)
class Holder:
    """A process that has claimed a run. born: tells a reused process id from the old one."""

    host: str
    pid: int
    born: str | None
    started: float
    job: Job | None = None

    @classmethod
    def from_dict(cls, content: Any) -> "Holder":
        """From a claim's content; a TypeError or KeyError tells that it is none."""
        job = content.get("job")
        return cls(
            content["host"],
            content["pid"],
            content["born"],
            content.get("started", 0.0),
            Job(**job) if job else None,
        )

    def to_dict(self) -> dict[str, Any]:
        content = dataclasses.asdict(self)
        return content if self.job else {k: v for k, v in content.items() if k != "job"}

    @property
    def is_me(self) -> bool:
        pid = os.getpid()
        return (self.host, self.pid, self.born) == (socket.gethostname(), pid, _born(pid))

    @property
    def may_live(self) -> bool:
        """Whether the process may be alive; on another host it is assumed to be."""
        return self.host != socket.gethostname() or self.runs

    @property
    def runs(self) -> bool:
        """Whether the process runs; only its own host can tell."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return _born(self.pid) == self.born


class Scheduler(Protocol):
    """Something that knows about jobs; launch/slurm/squeue.py is one."""

    def myself(self) -> Job | None:
        """The job that this process belongs to; None outside of one."""

    def refresh(self, names: Iterable[str]) -> None:
        """Ask about jobs of these names at once, instead of one by one later."""

    def lives(self, job: Job, read: float) -> bool | None:
        """Whether the incarnation of a job still has processes; None: unknown.

        Args:
            read: when the claim was read, by the monotonic clock.
        """


class NoScheduler:
    """Where there are no jobs, or nobody to ask about them."""

    def myself(self) -> Job | None:
        return None

    def refresh(self, names: Iterable[str]) -> None:
        pass

    def lives(self, job: Job, read: float) -> bool | None:
        return None


def this_process(scheduler: Scheduler) -> Holder:
    """This process, so that others can tell whether it lives."""
    pid = os.getpid()
    return Holder(socket.gethostname(), pid, _born(pid), time.time(), scheduler.myself())


class Claims:
    """The claims of one results folder."""

    def __init__(self, results: Path | str, scheduler: Scheduler | None = None):
        self.results = Path(results)
        self.folder = self.results / "claims"
        self.scheduler = scheduler or NoScheduler()
        self.held: dict[str, Path] = {}
        self.heart: threading.Thread | None = None

    def take(self, run_id: str) -> bool:
        """Claim the run; False while another living process has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        present = self._of(run_id)
        if any(self._alive(path, holder) for path, holder in present.items()):
            return False
        generation = 1 + max(map(_generation, present), default=0)
        mine = self.folder / f"{run_id}.{generation}.json"
        handle, draft = tempfile.mkstemp(prefix=".claim-", dir=self.folder)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(this_process(self.scheduler).to_dict(), file)
            os.link(draft, mine)
        except FileExistsError:
            return False
        finally:
            os.unlink(draft)
        others = {path: holder for path, holder in self._of(run_id).items() if path != mine}
        if any(self._alive(path, holder) for path, holder in others.items()):
            mine.unlink(missing_ok=True)  # the other is of another generation, made since we looked
            return False
        for path in others:
            path.unlink(missing_ok=True)
        self.held[run_id] = mine
        if self.heart is None:
            self.heart = threading.Thread(target=self._beat, daemon=True)
            self.heart.start()
        return True

    def holds(self, run_id: str) -> bool:
        """Whether this process still has the run: it may have been taken for dead meanwhile."""
        holder = _holder(self.held[run_id]) if run_id in self.held else None
        return holder is not None and holder.is_me

    def release(self, run_id: str) -> None:
        """Give back a run that this process has claimed."""
        if self.holds(run_id):
            self.held[run_id].unlink(missing_ok=True)
        self.held.pop(run_id, None)

    def holders(self) -> dict[str, Holder]:
        """The living claims: who holds which run, by run id."""
        claims = {path: _holder(path) for path in self.folder.glob("*.json")}
        read = time.monotonic()
        self.scheduler.refresh({h.job.name for h in claims.values() if h and h.job})
        return {
            path.name.split(".")[0]: holder
            for path, holder in claims.items()
            if holder and self._alive(path, holder, read)
        }

    def clean(self) -> None:
        """Remove claims of dead processes and drafts that a killed one left."""
        for path in self.folder.glob("*.json"):
            run_id = path.name.split(".")[0]
            # not by unlinking what looks dead: by then it may be somebody's new one
            if not self._alive(path, _holder(path)) and self.take(run_id):
                self.release(run_id)
        remove_drafts(self.folder)

    def _of(self, run_id: str) -> dict[Path, Holder | None]:
        """All claims of a run, dead and damaged ones too."""
        return {path: _holder(path) for path in self.folder.glob(f"{run_id}.*.json")}

    def _alive(self, path: Path, holder: Holder | None, read: float | None = None) -> bool:
        """Whether the owner lives; `read` is when the claim was read, if not just now."""
        if holder is None:
            return False
        here = holder.host == socket.gethostname()
        if here and not holder.runs:
            return False
        if holder.job and not holder.is_me:
            # asked before the process: one whose node SLURM has given up may run on as a ghost
            word = self.scheduler.lives(holder.job, time.monotonic() if read is None else read)
            if word is not None:
                return word
        if here:
            return True
        try:
            return filesystem_time(self.folder) - path.stat().st_mtime < STALE
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            for path in list(self.held.values()):
                with contextlib.suppress(OSError):  # released, or taken over: `holds` will tell
                    os.utime(path)


def filesystem_time(folder: Path) -> float:
    """The time by the clock that stamps files in this folder: on a cluster the file server's."""
    with tempfile.NamedTemporaryFile(prefix=".clock-", dir=folder) as file:
        return os.stat(file.name).st_mtime


def _generation(path: Path) -> int:
    return int(path.name.split(".")[1])


def _holder(path: Path) -> Holder | None:
    """The holder; None if the claim is gone or damaged."""
    try:
        return Holder.from_dict(json.loads(read_bytes(path, 2**20)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _born(pid: int) -> str | None:
    """The process's start time in clock ticks: tells a reused pid from the old one (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
