"""This machine: its GPUs and cores, and the environment of the processes that are started here."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile


def default_workers() -> int:
    """One a GPU, or as many as the cores are good for."""
    return len(visible_gpus()) or max(1, min(4, os.cpu_count() or 2))


def visible_gpus() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without loading CUDA."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        # CUDA too takes none from the first name on that is none, such as -1
        return list(takewhile(lambda name: re.match(r"\d+$|GPU-|MIG-", name.strip()), names))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU")]


def cores() -> int:
    """How many cores this process may use, by its SLURM job or by the system."""
    given = os.environ.get("SLURM_CPUS_PER_TASK")
    return int(given) if given else len(os.sched_getaffinity(0))


def threads(processes: int) -> int:
    """Threads for each of several processes here, at most OMP_NUM_THREADS where that is set."""
    share = max(1, cores() // processes)
    most = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(most)) if most.isdigit() and int(most) else share


@contextmanager
def environment(remove: Iterable[str] = (), **values: str | None) -> Iterator[None]:
    """Set environment variables for a child that is started inside; None leaves one as it is."""
    old = {key: os.environ.get(key) for key in [*remove, *values]}
    try:
        for key in remove:
            os.environ.pop(key, None)
        for key, value in values.items():
            if value is not None:
                os.environ[key] = value
        yield
    finally:
        for key, value in old.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def die_with_parent(parent: int) -> None:
    """Exit as soon as the parent has: a worker must not outlive a killed sweep."""
    while os.getppid() == parent:
        time.sleep(0.5)
    sys.stderr.flush()
    os._exit(1)
