"""What is said while a grid runs: between a sweep and its workers, and to the view.

A sweep sends `Command`s to a worker, which answers with a `Reply`. Local workers and SLURM alike
report `Event`s.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..benchmarks.config import RunConfig
from ..benchmarks.outcome import EpochDone
from ..benchmarks.record import RunRecord

# from the sweep to a worker ----------------------------------------------------------------------


@dataclass(frozen=True)
class Prepare:
    """Load and check the weights and data of this run."""

    config: RunConfig


@dataclass(frozen=True)
class Execute:
    """Do this run."""

    config: RunConfig


Command = Prepare | Execute

# from a worker to the sweep ----------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its libraries and its device works."""


@dataclass(frozen=True)
class Refused:
    """Something is wrong that concerns every run; message: in one line."""

    message: str


@dataclass(frozen=True)
class InputsLoaded:
    """Weights and data are there, and are what they should be."""


@dataclass(frozen=True)
class Taken:
    """Another process has the run, or has taken it over from this one."""


@dataclass(frozen=True)
class Finished:
    """The run has a record. device_lost: the worker's GPU no longer works, and the worker ends."""

    record: RunRecord
    device_lost: bool = False


Reply = Ready | Refused | InputsLoaded | Taken | EpochDone | Finished

# to whoever watches ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Something happened to a run. worker: its number; -1 stands for a job elsewhere."""

    config: RunConfig
    worker: int


@dataclass(frozen=True)
class Started(Event):
    """A worker has begun with it."""


@dataclass(frozen=True)
class Prepared(Event):
    """Its weights and data are loaded."""


@dataclass(frozen=True)
class EpochEnded(Event):
    """One more epoch of it is done."""

    epoch: EpochDone


@dataclass(frozen=True)
class Ended(Event):
    """It has a record."""

    record: RunRecord


OnEvent = Callable[[Event], None]
# the runs that are known when this one has ended
Following = Callable[[RunConfig], list[RunConfig]]


def nothing_follows(config: RunConfig) -> list[RunConfig]:
    return []
