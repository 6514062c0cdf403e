"""How long runs will take: from past runs of the same kind, else from the settings' defaults."""

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping

from ..benchmarks import tasks
from ..benchmarks.config import RunConfig
from ..benchmarks.store import Glance

Estimate = Callable[[RunConfig], float]


def estimator(
    configs: Iterable[RunConfig], glances: Mapping[str, Glance], prior: dict[str, float]
) -> tuple[Estimate, Collection[tuple]]:
    """An estimate of the seconds that a run takes, and the kinds of runs that past ones tell about.

    Past runs of the same method, backbone, task and epochs tell (their median); for others the
    settings' `prior` does: seconds to start, to train and to score 1000 images.
    """
    took: dict[tuple, list[float]] = {}
    for config in configs:
        record = glances.get(config.run_id)
        if record is not None and record.status == "done":
            took.setdefault(kind(config), []).append(record.seconds)
    known = {key: statistics.median(values) for key, values in took.items()}

    def estimate(config: RunConfig) -> float:
        if kind(config) in known:
            return known[kind(config)]
        sizes = tasks.get(config.benchmark, config.task).sizes
        epochs = config.recipe.epochs + config.recipe.cooldown_epochs
        scored = epochs // config.eval_every if config.eval_every else 1
        trained = prior["train_1000_images"] * sizes[config.train_split] * epochs
        return (
            prior["start"]
            + (trained + prior["score_1000_images"] * sizes[config.eval_split] * scored) / 1000
        )

    return estimate, known


def kind(config: RunConfig) -> tuple:
    """What runs that take equally long have in common."""
    recipe = config.recipe
    epochs = recipe.epochs + recipe.cooldown_epochs
    return config.method, config.backbone, config.benchmark, config.task, epochs, config.eval_every


def wall_seconds(lengths: Iterable[float], at_once: int | None) -> float:
    """How long packs of these lengths take, so many at a time, if no job has to wait."""
    lengths = list(lengths)
    ends = [0.0] * min(at_once or len(lengths), len(lengths))
    for seconds in lengths:
        first = min(range(len(ends)), key=ends.__getitem__)
        ends[first] += seconds
    return max(ends, default=0.0)
