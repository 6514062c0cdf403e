"""After submission: cancel a table's jobs, remove the logs of finished runs."""

from pathlib import Path

from ...benchmarks.store import Results
from . import notes, squeue
from .arrays import SlurmError


def cancel(results: Path, table: str) -> tuple[int, int]:
    """Cancel the waiting and running jobs that commands for this table submitted: jobs, arrays."""
    queue = notes.look(results, fresh=0)
    if not queue.answers:
        raise SlurmError("SLURM does not answer (squeue): try again")
    count = arrays = 0
    for note in queue.notes:
        tasks = (squeue.tasks([note.name]) or {}).get(note.name)
        if note.table != table or not tasks:
            continue
        note.cancelled = True  # first, so that a waiting command does not submit it again
        note.write()
        if not squeue.cancel({number.partition("_")[0] for number in tasks}):
            raise SlurmError("SLURM does not answer (scancel): try again")
        count, arrays = count + len(tasks), arrays + 1
    return count, arrays


def clean_logs(results: Path) -> int:
    """Remove the logs of ended packs whose runs are all done; how many files went."""
    removed = 0
    for note in notes.read_all(results):
        if not note.ended:
            continue
        ids = [run_id for pack in note.packs for run_id in pack]
        glances = Results(results).glance(ids)
        done = {run_id for run_id, glance in glances.items() if glance.status == "done"}
        for index, pack in enumerate(note.packs):
            if done.issuperset(pack):
                prefix = note.log(index).name.removesuffix("_0_log.out")
                for file in note.log(index).parent.glob(f"{prefix}_*"):
                    file.unlink()
                    removed += 1
        if done.issuperset(ids):
            note.path.unlink()
            for file in note.log(0).parent.glob("*"):
                if file.name.startswith((f"{note.job}_", f".submission_{note.job}")):
                    file.unlink()
                    removed += 1
            if note.log(0).parent.is_dir() and not any(note.log(0).parent.glob("*_log.out")):
                for file in note.log(0).parent.iterdir():
                    file.unlink()
                note.log(0).parent.rmdir()
    return removed
