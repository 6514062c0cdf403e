"""Claims: a run belongs to one process at a time, across sweeps and nodes.

    <results>/claims/<run_id>.<generation>.json    {"host", "pid", "born", "started", "job"}

A claim is made by hard-linking a finished file, which only one process can do. The claim of a dead
process is not removed first, since by then it might be somebody's new one: it is superseded by the
next generation, which again only one process can make.

Whether the owner lives: on this host its process tells; SLURM tells of its jobs; elsewhere the
claim's time of change does, which the owner renews every half a minute.
"""

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.record import clean_drafts

from . import squeue

BEAT = 30  # seconds between two renewals of a claim
STALE = 600  # seconds without one after which an owner that nobody can see counts as dead


class Claims:
    """The claims of one results folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder) / "claims"
        self.held: dict[str, Path] = {}
        self.heart: threading.Thread | None = None

    def take(self, run_id: str) -> bool:
        """Claim the run; False while another living process has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = self._of(run_id)
        if any(self._alive(path, holder) for path, holder in there.items()):
            return False
        generation = 1 + max(map(_generation, there), default=0)
        mine = self.folder / f"{run_id}.{generation}.json"
        handle, draft = tempfile.mkstemp(prefix=".claim-", dir=self.folder)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(myself(), file)
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
        return run_id in self.held and _is_me(_read(self.held[run_id]))

    def release(self, run_id: str) -> None:
        """Give back a run that this process has claimed."""
        if self.holds(run_id):
            self.held[run_id].unlink(missing_ok=True)
        self.held.pop(run_id, None)

    def holders(self) -> dict[str, dict[str, Any]]:
        """Who has which run: the living claims by run id."""
        claims = {path: _read(path) for path in self.folder.glob("*.json")}
        read = time.monotonic()
        jobs = [holder["job"] for holder in claims.values() if holder and holder.get("job")]
        squeue.tasks({job["name"] for job in jobs}, fresh=0)  # one question instead of many
        return {
            path.name.split(".")[0]: holder
            for path, holder in claims.items()
            if self._alive(path, holder, read)
        }

    def clean(self) -> None:
        """Remove claims of dead processes and drafts that a killed one left."""
        for path in self.folder.glob("*.json"):
            run_id = path.name.split(".")[0]
            # not by unlinking what looks dead: by then it may be somebody's new one
            if not self._alive(path, _read(path)) and self.take(run_id):
                self.release(run_id)
        clean_drafts(self.folder)

    def _of(self, run_id: str) -> dict[Path, dict[str, Any] | None]:
        """All claims of a run, dead and damaged ones too."""
        return {path: _read(path) for path in self.folder.glob(f"{run_id}.*.json")}

    def _alive(self, path: Path, holder: dict[str, Any] | None, read: float | None = None) -> bool:
        """Whether the owner lives; `read` is when the claim was read, if not just now."""
        if holder is None:
            return False
        here = holder["host"] == socket.gethostname()
        if here and not _runs(holder):
            return False
        if holder.get("job") and not _is_me(holder):
            # asked before the process: one whose node SLURM has given up may run on as a ghost
            word = squeue.lives(holder["job"], time.monotonic() if read is None else read)
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
    """The time by the clock that stamps files there, which on a cluster is the file server's."""
    with tempfile.NamedTemporaryFile(prefix=".clock-", dir=folder) as file:
        return os.stat(file.name).st_mtime


def _generation(path: Path) -> int:
    return int(path.name.split(".")[1])


def _read(path: Path) -> dict[str, Any] | None:
    """The holder; None if the claim is gone or damaged."""
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) and {"host", "pid", "born"} <= set(holder) else None


def myself() -> dict[str, Any]:
    """This process, so that others can tell whether it lives."""
    pid = os.getpid()
    me = {"host": socket.gethostname(), "pid": pid, "born": _born(pid), "started": time.time()}
    job = squeue.myself()
    return me | {"job": job} if job else me


def _is_me(holder: dict[str, Any] | None) -> bool:
    pid = os.getpid()
    me = {"host": socket.gethostname(), "pid": pid, "born": _born(pid)}
    return holder is not None and all(holder[key] == value for key, value in me.items())


def alive_here(holder: dict[str, Any]) -> bool:
    """Whether a process lives; one of another host is taken to."""
    return holder["host"] != socket.gethostname() or _runs(holder)


def _runs(holder: dict[str, Any]) -> bool:
    """Whether the holder's process runs, which only its own host can tell."""
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _born(holder["pid"]) == holder["born"]


def _born(pid: int) -> str | None:
    """The process's start time in clock ticks: tells a reused pid from the old one (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
