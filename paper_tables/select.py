"""How a protocol selects a number: functions over a cell's records, applied after the fact.

recipe      published settings, the last epoch's accuracy
val         settings by the accuracy on the validation images, then trained anew on all training
            images, the last epoch's accuracy; test images are scored once a seed
best_test   the best of the accuracies on the test set, the papers' habit; always labelled as such
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from statistics import mean, stdev

from ..benchmarks.config import RunConfig
from ..benchmarks.record import RunRecord
from .plan import Cell, Protocol

SCORES = {"recipe": "top1_last", "val": "top1_last", "best_test": "top1_best_test"}
LABELS = {
    "recipe": "last epoch, settings of the recipe",
    "val": "last epoch, settings chosen on validation images, trained anew on all training images",
    "best_test": "best epoch on the test set (optimistic; the papers' habit)",
}


@dataclass(frozen=True)
class Score:
    """A cell's number: mean over its seeds in percent, their spread, and what it is made of.

    value is NaN while a seed is missing; std is NaN with fewer than two seeds. values are those of
    the seeds that are there, in order.
    """

    value: float
    std: float
    wanted: int
    values: tuple[float, ...]

    @property
    def seeds(self) -> int:
        return len(self.values)


def rounded(value: float, digits: int) -> str:
    """A number as a person rounds it: half goes up, not to the even neighbour."""
    exact = Decimal(repr(round(float(value), 9)))
    return str(exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def score(run_ids: Sequence[str], records: Mapping[str, RunRecord], protocol: Protocol) -> Score:
    """The cell's score by a protocol, from the records of its runs that are done."""
    key = SCORES[protocol]
    scores = (getattr(records[run_id], key) for run_id in run_ids if run_id in records)
    values = [value for value in scores if value is not None]
    complete = bool(values) and len(values) == len(run_ids)
    return Score(
        value=mean(values) if complete else math.nan,
        std=stdev(values) if len(values) > 1 else math.nan,
        wanted=len(run_ids),
        values=tuple(values),
    )


Read = Callable[[str], RunRecord | None]  # a run's record by its id, None where there is none


def winner(trials: Sequence[RunConfig], read: Read) -> RunConfig | None:
    """The trial with the best accuracy on the validation images; None while one is not done.

    Ties go to the smaller learning rate, then to the smaller weight decay, then to the first in the
    grid. A trial that diverged has lost; one that failed for another reason is not done.
    """
    ranked = []
    for position, trial in enumerate(trials):
        record = read(trial.run_id)
        if record is None:
            return None
        if record.top1_val is not None and record.done:
            recipe = trial.recipe
            ranked.append((-record.top1_val, recipe.lr, recipe.weight_decay, position))
        elif record.reason != "diverged":
            return None
    return trials[min(ranked)[-1]] if ranked else None


def decide(cells: Iterable[Cell], read: Read) -> list[Cell]:
    """The cells, with a config where their trials are done."""
    winners: dict[tuple[str, ...], RunConfig | None] = {}
    decided = []
    for cell in cells:
        ids = tuple(trial.run_id for trial in cell.trials)
        if ids and ids not in winners:
            winners[ids] = winner(cell.trials, read)
        best = winners.get(ids) if ids else None
        decided.append(replace(cell, config=cell.final(best), reason="") if best else cell)
    return decided
