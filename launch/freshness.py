"""Whether finished runs were made with the weights and the pixels that are given now.

A record notes fingerprints of both. Today's are found without torch and without decoding where a
stamp (names, sizes and times of the files) is known, else by reading the files once; the stamps
that are known lie in <results>/fingerprints.json, which may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..benchmarks import data, tasks
from ..benchmarks.config import RunConfig
from ..benchmarks.context import RunContext
from ..benchmarks.extensions import extensions
from ..benchmarks.files import write_text
from ..paper_tables.records import Outdated
from .grid import Grid
from .messages import InputsLoaded


@dataclass
class Memory:
    """Fingerprints of weights by tag and stamp."""

    path: Path
    known: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Path) -> "Memory":
        path = results / "fingerprints.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        return cls(path, content if isinstance(content, dict) else {})

    def learn(self, config: RunConfig, context: RunContext, inputs: InputsLoaded) -> None:
        """Remember what a worker has read; a folder that cannot be written costs nothing."""
        stamp = weights_stamp(config.backbone, context.weights)
        if stamp and self.known.get(stamp) != inputs.weights:
            self.known[stamp] = inputs.weights
            with contextlib.suppress(OSError):
                write_text(self.path, json.dumps(self.known, indent=1) + "\n")


def outdated_inputs(grid: Grid, context: RunContext, with_data: bool) -> Outdated:
    """The finished runs that were made with other weights or pixels than today's.

    Args:
        with_data: whether `context.data` is there to compare with.

    Raises:
        InputError: the weights or the data that are given are not what they should be.
    """
    done = {
        run_id: grid.configs[run_id] for run_id, g in grid.glances.items() if g.status == "done"
    }
    memory = Memory.of(grid.folder)
    weights = _weights_now(done.values(), context, memory)
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
    now = {}
    for config in {config.backbone: config for config in configs}.values():
        stamp = weights_stamp(config.backbone, context.weights)
        if stamp is None or context.weights == "random":
            continue
        if stamp not in memory.known:
            from ..benchmarks import backbones  # loads torch, once for every set of weights

            fingerprint = backbones.create(config.backbone, 1, context.weights).fingerprint
            memory.learn(config, context, InputsLoaded(fingerprint, ""))
            now[config.backbone] = fingerprint
        else:
            now[config.backbone] = memory.known[stamp]
    return now


def weights_stamp(tag: str, weights: str | None) -> str | None:
    """Stands for the files that a backbone is loaded from; None: they are not on this machine."""
    if weights is None or weights == "hub":
        path = _downloaded(tag)
        for extension in extensions().values():
            if weights is None and tag in extension.BACKBONES:
                path = extension.WEIGHTS
    else:
        path = Path(weights)
    if path is None or not path.exists():
        return None
    files = sorted(path.iterdir()) if path.is_dir() else [path.resolve()]
    lines = [tag]
    for file in files:
        stat = os.stat(file)
        lines.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{tag} {digest[:16]}"


def _downloaded(tag: str) -> Path | None:
    """The checkpoint of a tag in the hub's cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(f"timm/{tag}", "model.safetensors")
    return Path(path) if isinstance(path, str) else None


def _splits(config: RunConfig) -> tuple[str, str, str, str]:
    return config.benchmark, config.task, config.train_split, config.eval_split


def _pixels_now(
    configs: Iterable[RunConfig], context: RunContext
) -> dict[tuple[str, str, str, str], str]:
    """The fingerprint of each task's splits as a record has it."""
    now, splits = {}, {}
    for config in {_splits(config): config for config in configs}.values():
        task = tasks.get(config.benchmark, config.task)
        for split in (config.train_split, config.eval_split):
            key = (config.benchmark, config.task, split)
            if key not in splits:
                splits[key] = data.current_fingerprint(
                    context.data, task, split, cache=context.cache, smoke=config.smoke
                )
        parts = (splits[config.benchmark, config.task, s] for s in _splits(config)[2:])
        now[_splits(config)] = "+".join(parts)
    return now
