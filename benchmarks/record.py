"""Records: one JSON file a run, written once and atomically; its presence is the mark of 'done'.

    <results>/runs/<run_id>.json

A failed run has a record too, with status "failed" and the reason, and is not tried again until
asked for. The schema is in results/README.md. Nothing here needs torch.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .config import RunConfig

SCHEMA = 1


class Results:
    """A folder of records."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.runs = self.folder / "runs"

    def path(self, run_id: str) -> Path:
        return self.runs / f"{run_id}.json"

    def read(self, run_id: str) -> dict[str, Any] | None:
        """The record, or None if there is none or it cannot be read."""
        try:
            record = json.loads(self.path(run_id).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if _is_record(record, run_id) else None

    def write(self, record: dict[str, Any]) -> Path:
        """Write a record under a temporary name and move it in place."""
        self.runs.mkdir(parents=True, exist_ok=True)
        path = self.path(record["run_id"])
        write_atomically(path, json.dumps(record, indent=1) + "\n")
        return path

    def clean(self) -> None:
        """Remove what writers left that were killed: drafts too old for one to be at work on."""
        clean_drafts(self.runs)

    def all(self) -> Iterator[tuple[Path, dict[str, Any] | None]]:
        """Every record file with its record, None where it is damaged or of another schema."""
        for path in sorted(self.runs.glob("*.json")):
            yield path, self.read(path.stem)


def write_atomically(path: Path, text: str) -> None:
    """Write text so that readers see the old file or the new one, never a part."""
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def clean_drafts(folder: Path) -> None:
    """Remove the drafts (names with a dot before) that nobody has touched for an hour."""
    for draft in folder.glob(".*-*"):
        with suppress(OSError):  # its maker was faster
            if time.time() - draft.stat().st_mtime > 3600:
                draft.unlink()


def failed(config: RunConfig, error: str, **more: Any) -> dict[str, Any]:
    """The record of a run that did not finish, with the reason in one line."""
    return {
        "schema": SCHEMA,
        "run_id": config.run_id,
        "status": "failed",
        "error": error,
        "config": config.to_dict(),
        **more,
    }


def _is_record(record: Any, run_id: str) -> bool:
    return (
        isinstance(record, dict)
        and record.get("schema") == SCHEMA
        and record.get("run_id") == run_id
        and record.get("status") in ("done", "failed")
        and isinstance(record.get("config"), dict)
    )
