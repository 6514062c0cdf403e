"""Claims: a run belongs to one process at a time, across sweeps and nodes.

    <results>/claims/<run_id>.<generation>.json    {"host", "pid", "born", "started"}

A claim is made by hard-linking a finished file, which only one process can do. The claim of a dead
process is not removed first, since by then it might be somebody's new one: it is superseded by the
next generation, which again only one process can make.
"""

import json
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any


class Claims:
    """The claims of one results folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder) / "claims"

    def take(self, run_id: str) -> bool:
        """Claim the run; False while another living process has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = self._of(run_id)
        if any(map(_alive, there.values())):
            return False
        generation = 1 + max(map(_generation, there), default=0)
        mine = self.folder / f"{run_id}.{generation}.json"
        handle, draft = tempfile.mkstemp(prefix=".claim-", dir=self.folder)
        with os.fdopen(handle, "w") as file:
            json.dump(_myself(), file)
        try:
            os.link(draft, mine)
        except FileExistsError:
            return False
        finally:
            os.unlink(draft)
        others = {path: holder for path, holder in self._of(run_id).items() if path != mine}
        if any(map(_alive, others.values())):  # of another generation, made since we looked
            mine.unlink(missing_ok=True)
            return False
        for path in others:
            path.unlink(missing_ok=True)
        return True

    def release(self, run_id: str) -> None:
        """Give back a run that this process has claimed."""
        for path, holder in self._of(run_id).items():
            if holder is not None and holder["pid"] == os.getpid() and _alive(holder):
                path.unlink(missing_ok=True)

    def holders(self) -> dict[str, dict[str, Any]]:
        """Who has which run: the living claims by run id."""
        found = {}
        for path in self.folder.glob("*.json"):
            holder = _read(path)
            if _alive(holder):
                found[path.name.split(".")[0]] = holder
        return found

    def clean(self) -> None:
        """Remove claims of dead processes and drafts that a killed one left."""
        for path in self.folder.glob("*.json"):
            holder = _read(path)
            if holder is not None and not _alive(holder):
                path.unlink(missing_ok=True)
        for draft in self.folder.glob(".claim-*"):
            try:
                if time.time() - draft.stat().st_mtime > 60:
                    draft.unlink(missing_ok=True)
            except OSError:
                pass  # its maker was faster

    def _of(self, run_id: str) -> dict[Path, dict[str, Any] | None]:
        """All claims of a run, dead and damaged ones too."""
        return {path: _read(path) for path in self.folder.glob(f"{run_id}.*.json")}


def _generation(path: Path) -> int:
    return int(path.name.split(".")[1])


def _read(path: Path) -> dict[str, Any] | None:
    """The holder; None if the claim is gone or damaged."""
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) and {"host", "pid", "born"} <= set(holder) else None


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    host = socket.gethostname()
    return {"host": host, "pid": pid, "born": _born(pid), "started": time.time()}


def _alive(holder: dict[str, Any] | None) -> bool:
    """Whether the holder lives. On another host it cannot be seen from here: taken as alive."""
    if holder is None:
        return False
    if holder["host"] != socket.gethostname():
        return True
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
