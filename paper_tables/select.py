"""How a number is selected: functions over a cell's records, applied after the fact.

A rule is about one number (docs/protocols.md):

last      published settings, the last epoch's accuracy
val       settings by the accuracy on the validation images, then trained anew on all training
          images, the last epoch's accuracy; test images are scored once a seed
best_10   published settings, the best of the test accuracies after every 10th epoch and the last
best      published settings, the best of the test accuracies after every epoch

A protocol gives every row a rule: `recipe` last, `val` val, `best_test` best, and `printed` the one
behind the paper's number.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from statistics import mean, stdev

from ..benchmarks.config import RunConfig
from ..benchmarks.record import RunRecord
from .marks import outdated_code
from .plan import Cell, Protocol, Rule

SCORES: dict[Rule, str] = {
    "last": "top1_last",
    "val": "top1_last",
    "best_10": "top1_best_10",
    "best": "top1_best_test",
}
LABELS: dict[Protocol, str] = {
    "recipe": "last epoch, settings of the recipe",
    "val": "last epoch, settings chosen on validation images, trained anew on all training images",
    "best_test": "best epoch on the test set (optimistic; the papers' habit)",
    "printed": "every row by the rule behind its printed number",
}
RULES: dict[str, str] = {  # in a few words, also of printed numbers
    "last": "last epoch",
    "val": "last epoch, settings chosen on validation images",
    "best_10": "best of every 10th epoch on the test set",
    "best": "best epoch on the test set",
    "unknown": "a rule that is unknown",
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


def score(run_ids: Sequence[str], records: Mapping[str, RunRecord], rule: Rule) -> Score:
    """The cell's score by a rule, from the records of its runs that are done."""
    key = SCORES[rule]
    scores = (getattr(records[run_id], key) for run_id in run_ids if run_id in records)
    values = [value for value in scores if value is not None]
    complete = bool(values) and len(values) == len(run_ids)
    return Score(
        value=mean(values) if complete else math.nan,
        std=stdev(values) if len(values) > 1 else math.nan,
        wanted=len(run_ids),
        values=tuple(values),
    )


def rows_by_rule(rules: Iterable[tuple[str, str]]) -> str:
    """Rules in words with their rows: "last epoch (LoRA, RLRR); best epoch on the test set (SSF)".

    Args:
        rules: (row's label, rule).
    """
    rows: dict[str, dict[str, None]] = {}
    for label, rule in rules:
        rows.setdefault(rule, {})[label] = None
    if len(rows) == 1:
        return RULES[next(iter(rows))]
    return "; ".join(f"{RULES[rule]} ({', '.join(labels)})" for rule, labels in rows.items())


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


def decide(cells: Iterable[Cell], read: Read, known: Collection[str]) -> list[Cell]:
    """The cells, each with the run that answers for it.

    Where trials are done, that is the winner's. Where the test set was scored more often in an
    otherwise equal training that is done, it is that one: how often one looks is not part of what
    is trained.

    Args:
        known: ids of the runs that have a record.
    """
    cells = list(cells)
    winners: dict[tuple[str, ...], RunConfig | None] = {}
    decided = []
    for cell in cells:
        ids = tuple(trial.run_id for trial in cell.trials)
        if ids and ids not in winners:
            winners[ids] = winner(cell.trials, read)
        best = winners.get(ids) if ids else None
        decided.append(replace(cell, config=cell.final(best), reason="") if best else cell)
    asked = {cell.config.run_id for cell in decided if cell.config}
    others = set(known) - asked
    if not others:  # spares thousands of hashes
        return decided
    return [
        replace(cell, config=_answering(cell.config, read, others)) if cell.config else cell
        for cell in decided
    ]


def _answering(config: RunConfig, read: Read, others: Collection[str]) -> RunConfig:
    """The config, or that of an equal training in `others` that scored the test set more often.

    Its own record comes first, then that with the most scores; but one whose method's files are
    others now comes after all that are current.
    """
    every = config.eval_every
    denser = [often for often in (1, 10) if every == 0 or (often < every and every % often == 0)]
    candidates = [replace(config, eval_every=often) for often in denser]
    found = [candidate for candidate in candidates if candidate.run_id in others]
    if not found:
        return config
    done = []
    for candidate in (config, *found):
        record = read(candidate.run_id)
        if record is not None and record.done:
            done.append((bool(outdated_code([(candidate, record.method_code)])), candidate))
    return min(done, key=lambda pair: pair[0])[1] if done else config
