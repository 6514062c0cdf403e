"""The outcome of training, filled while it goes on, and the report after every epoch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpochDone:
    """An epoch of a run is over.

    Attributes:
        epoch, epochs: how many are done, of how many.
        images_per_second: training images, since the run began to train.
        loss: mean over the epoch.
        top1: percent, where it was scored after this epoch.
    """

    epoch: int
    epochs: int
    images_per_second: float
    loss: float
    top1: float | None = None


OnEpoch = Callable[[EpochDone], None]


@dataclass
class Outcome:
    """The outcome of a training run.

    Attributes:
        curve: one dict per epoch: epoch, lr, loss, and top1 if it was scored.
        top1: percent, after the last epoch.
        seconds_train, seconds_evaluate: wall time by phase.
        images: training images seen.
        fast_paths: those taken.
    """

    curve: list[dict[str, Any]] = field(default_factory=list)
    top1: float = math.nan
    seconds_train: float = 0.0
    seconds_evaluate: float = 0.0
    images: int = 0
    fast_paths: list[str] = field(default_factory=list)
