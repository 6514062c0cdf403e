"""Notes of what was submitted: one file per job array, written before sbatch is called.

    <results>/jobs/<name>.json    {"name", "table", "sweep", "code", "minutes", "packs", "by", ...}

The name is also the job's name in SLURM, so that squeue finds it even if the submitting process
died before it learnt the job's id. A note says what is queued; what is done, the records say.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...benchmarks.files import read_bytes, write_text
from ..claims import Holder, this_process
from . import squeue


@dataclass
class Note:
    """A submitted job array.

    packs: the run ids of every task; sweep: its folder below logs/; code: its folder below code/;
    job: SLURM's id, None until submitit has finished; ended: nothing of it waits or runs any more;
    cancelled: on request, so that nobody submits it again.
    """

    path: Path
    table: str
    sweep: str
    code: str
    minutes: float
    packs: list[list[str]]
    by: Holder
    job: str | None = None
    ended: bool = False
    cancelled: bool = False
    submitted: float = 0.0  # by the file server's clock

    @property
    def name(self) -> str:
        return self.path.stem

    def write(self) -> None:
        content = {k: v for k, v in vars(self).items() if k != "path"}
        write_text(self.path, json.dumps(content | {"by": self.by.to_dict()}) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Note":
        """From its file.

        Raises:
            OSError, ValueError, TypeError, KeyError: it cannot be read, or is no note.
        """
        content = json.loads(read_bytes(path, 2**26))
        return cls(path=path, **{**content, "by": Holder.from_dict(content["by"])})

    @property
    def cut_short(self) -> bool:
        """Whether the submitting process died before all was in place."""
        return self.job is None and not self.by.may_live

    def log(self, pack: int) -> Path:
        """Where the output of a task goes."""
        number = self.job if len(self.packs) == 1 else f"{self.job}_{pack}"
        return self.path.parent.parent / "logs" / self.sweep / f"{number}_0_log.out"


def create(results: Path, name: str, **values: Any) -> Note:
    """Create and save the note for a submission about to be made by this process."""
    note = Note(results / "jobs" / f"{name}.json", by=this_process(squeue), **values)
    note.write()
    return note


def read_all(results: Path) -> list[Note]:
    """All notes, oldest first; damaged ones are passed over."""
    notes = []
    for path in (results / "jobs").glob("*.json"):
        try:
            notes.append(Note.read(path))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return sorted(notes, key=lambda note: note.submitted)


@dataclass
class Queue:
    """The unfinished submissions of a results folder with SLURM's word on them.

    runs: run id -> when it was submitted; tasks: what waits or runs; answers: whether SLURM did.
    """

    notes: list[Note]
    runs: dict[str, float]
    tasks: list[squeue.QueuedTask]
    answers: bool

    def waiting(self) -> str:
        """What the queue holds, with SLURM's reasons for waiting: '3 running, 8 pending (...)'."""
        counts = Counter(task.state for task in self.tasks)
        reasons = Counter(task.reason for task in self.tasks if task.state == "PENDING")
        words = [f"{n} {state.lower()}" for state, n in sorted(counts.items(), reverse=True)]
        why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common(3) if reason != "None")
        return ", ".join(words) + (f" ({why})" if why else "")


def look(results: Path, fresh: float = squeue.FRESH) -> Queue:
    """What is queued now. Where SLURM does not answer, the notes are taken at their word."""
    notes = [note for note in read_all(results) if not note.ended]
    answer = squeue.tasks([note.name for note in notes], fresh)
    runs: dict[str, float] = {}
    tasks: list[squeue.QueuedTask] = []
    for note in notes:
        queued = None if answer is None else answer[note.name]
        tasks += (queued or {}).values()
        being_made = note.job is None and not note.cut_short
        for index, pack in enumerate(note.packs):
            number = note.job if len(note.packs) == 1 else f"{note.job}_{index}"
            if queued is None or being_made or number in queued:
                runs |= dict.fromkeys(pack, note.submitted)
    return Queue(notes, runs, tasks, answer is not None)


def lost(results: Path, ids: Iterable[str]) -> dict[str, tuple[int, Path]]:
    """Of these runs, how many ended jobs were to do them, and the log of the last."""
    ids = set(ids)
    jobs: dict[str, tuple[int, Path]] = {}
    for note in read_all(results):
        for index, pack in enumerate(note.packs if note.ended and note.job else []):
            for run_id in ids.intersection(pack):
                jobs[run_id] = (jobs.get(run_id, (0,))[0] + 1, note.log(index))
    return jobs
