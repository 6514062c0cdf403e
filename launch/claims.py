"""Claims: a run belongs to one process at a time, across sweeps and nodes.

    <results>/claims/<run_id>.json    {"host", "pid", "born", "started"}

A claim is made by hard-linking a finished file, which only one process can do. The claim of a dead
process is taken over by renaming it away first, which again only one can do.
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

    def path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.json"

    def take(self, run_id: str) -> bool:
        """Claim the run; False while another living process has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        holder = self.holder(run_id)
        if holder is not None and _alive(holder):
            return False
        if holder is not None or self.path(run_id).exists():  # its owner is dead, or it is damaged
            self._remove(self.path(run_id))
        handle, draft = tempfile.mkstemp(prefix=".claim-", dir=self.folder)
        with os.fdopen(handle, "w") as file:
            json.dump(_myself(), file)
        try:
            os.link(draft, self.path(run_id))
        except FileExistsError:
            return False
        finally:
            os.unlink(draft)
        return True

    def release(self, run_id: str) -> None:
        self.path(run_id).unlink(missing_ok=True)

    def holder(self, run_id: str) -> dict[str, Any] | None:
        """Who has the run, or None if nobody has or the claim cannot be read."""
        try:
            return json.loads(self.path(run_id).read_text())
        except (OSError, ValueError):
            return None

    def running(self) -> set[str]:
        """The ids of runs whose claim is held by a living process."""
        found = set()
        for path in self.folder.glob("*.json"):
            holder = self.holder(path.stem)
            if holder is not None and _alive(holder):
                found.add(path.stem)
        return found

    def clean(self) -> None:
        """Remove claims of dead processes and drafts that a killed one left."""
        for path in self.folder.glob("*.json"):
            holder = self.holder(path.stem)
            if holder is not None and not _alive(holder):
                self._remove(path)
        for draft in self.folder.glob(".claim-*"):
            try:
                if time.time() - draft.stat().st_mtime > 60:
                    draft.unlink(missing_ok=True)
            except OSError:
                pass

    @staticmethod
    def _remove(path: Path) -> None:
        grave = path.with_name(f".claim-dead-{path.stem}-{os.getpid()}")
        try:
            os.rename(path, grave)
            os.unlink(grave)
        except FileNotFoundError:
            pass  # another process was faster


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    host = socket.gethostname()
    return {"host": host, "pid": pid, "born": _born(pid), "started": time.time()}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the holder lives. On another host it cannot be seen from here: taken as alive."""
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
