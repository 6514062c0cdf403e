"""Selection rules: functions over a cell's records, applied after the fact.

recipe      published settings, the last epoch's accuracy
best_test   the best of the accuracies on the test set, the papers' habit; always labelled as such
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

RULES = {"recipe": "top1_last", "best_test": "top1_best_test"}
LABELS = {
    "recipe": "last epoch, settings of the recipe",
    "best_test": "best epoch on the test set (optimistic; the papers' habit)",
}


@dataclass(frozen=True)
class Score:
    """A cell's number: mean over its seeds in percent, their spread, and what it is made of.

    value is NaN while a seed is missing; std is NaN with fewer than two seeds. values: those of the
    seeds that are there, in order.
    """

    value: float
    std: float
    wanted: int
    values: tuple[float, ...]

    @property
    def seeds(self) -> int:
        return len(self.values)


def score(run_ids: Sequence[str], records: Mapping[str, Mapping[str, Any]], rule: str) -> Score:
    """The cell's score by a rule, from the records of its runs that are done."""
    key = RULES[rule]
    values = [
        records[run_id][key]
        for run_id in run_ids
        if run_id in records and records[run_id].get(key) is not None
    ]
    complete = bool(values) and len(values) == len(run_ids)
    return Score(
        value=mean(values) if complete else math.nan,
        std=stdev(values) if len(values) > 1 else math.nan,
        wanted=len(run_ids),
        values=tuple(values),
    )
