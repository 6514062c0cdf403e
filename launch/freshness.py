"""Whether finished runs were made with the weights and the pixels that are given now.

A record has fingerprints of both. The current ones come from the files' stamps where those are
known, without torch and without decoding; else the files are read once.
"""

from collections.abc import Iterable

from ..benchmarks import data, tasks
from ..benchmarks.config import RunConfig
from ..benchmarks.context import RunContext
from ..benchmarks.stamps import Memory, weights_stamp
from ..paper_tables.records import Outdated
from .grid import Grid


def outdated_inputs(grid: Grid, context: RunContext, with_data: bool) -> Outdated:
    """Find finished runs that were made with other weights or pixels than there are now.

    Args:
        with_data: whether `context.data` is there to compare with.

    Raises:
        InputError: the weights or the data that are given are not what they should be.
    """
    done = {
        run_id: grid.configs[run_id] for run_id, g in grid.glances.items() if g.status == "done"
    }
    weights = _weights_now(done.values(), context, Memory(grid.folder))
    pixels = _pixels_now(done.values(), context) if with_data else {}
    changed: Outdated = {}
    for run_id, config in done.items():
        glance = grid.glances[run_id]
        words = []
        now = weights.get(config.backbone)
        if now and glance.weights_fingerprint and now != glance.weights_fingerprint:
            words.append("weights")
        now = pixels.get(_splits(config))
        if now and glance.data_fingerprint and now != glance.data_fingerprint:
            words.append("pixels")
        if words:
            changed[run_id] = tuple(words)
    return changed


def _weights_now(
    configs: Iterable[RunConfig], context: RunContext, memory: Memory
) -> dict[str, str]:
    """The fingerprint of each backbone's weights, where they are on this machine."""
    now, known = {}, memory.known()
    for tag in {config.backbone for config in configs}:
        stamp = weights_stamp(tag, context.weights)
        if stamp is None or context.weights == "random":
            continue
        if stamp not in known:
            from ..benchmarks import backbones  # loads torch, once for every set of weights

            known[stamp] = backbones.create(tag, 1, context.weights).fingerprint
            memory.learn(stamp, known[stamp])
        now[tag] = known[stamp]
    return now


def _splits(config: RunConfig) -> tuple[str, str, str, str]:
    return config.benchmark, config.task, config.train_split, config.eval_split


def _pixels_now(
    configs: Iterable[RunConfig], context: RunContext
) -> dict[tuple[str, str, str, str], str]:
    """The fingerprint of each task's splits as a record has it."""
    now: dict[tuple[str, str, str, str], str] = {}
    known: dict[tuple[str, str, str], str] = {}
    for config in {_splits(config): config for config in configs}.values():
        task = tasks.get(config.benchmark, config.task)
        parts = []
        for split in (config.train_split, config.eval_split):
            key = (config.benchmark, config.task, split)
            if key not in known:
                known[key] = data.current_fingerprint(
                    context.data, task, split, cache=context.cache, smoke=config.smoke
                )
            parts.append(known[key])
        now[_splits(config)] = "+".join(parts)
    return now
