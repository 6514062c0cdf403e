"""Marks on a number: § its runs differ in what they should share, ¶ their inputs have changed."""

from collections import Counter
from collections.abc import Iterable

from .. import methods
from ..benchmarks.config import RunConfig
from ..benchmarks.record import RunRecord
from .plan import Cell
from .records import Outdated, Records

# what the runs of a cell must have in common: a record's field -> what people call it
ALIKE = {
    "weights_fingerprint": "weights",
    "data_fingerprint": "pixels",
    "data_variant": "image format",
    "precision": "precision",
    "method_code": "method code",
}
OF_A_TASK = ("data_fingerprint",)  # always differs between tasks


def differences(tasks: list[list[RunRecord]]) -> dict[str, dict[str, int]]:
    """What the runs behind a number should have in common but do not: field -> value -> runs.

    What a record does not know is compared with nothing.

    Args:
        tasks: the finished runs of each task; of several tasks, pixels are compared within each.
    """
    differing: dict[str, dict[str, int]] = {}
    for key in ALIKE:
        for group in tasks if key in OF_A_TASK else [[r for task in tasks for r in task]]:
            values = Counter(getattr(r, key) for r in group if getattr(r, key) is not None)
            if len(values) > 1:
                differing.setdefault(key, {}).update(values)
    return differing


def mixture(tasks: list[list[RunRecord]]) -> str:
    """The fields of `differences` as people call them: "weights, precision"."""
    return ", ".join(ALIKE[key] for key in differences(tasks))


def outdated_code(made_with: Iterable[tuple[RunConfig, str | None]]) -> Outdated:
    """The runs whose method's files have changed since; see methods/registry.py.

    Args:
        made_with: finished runs, each with the hash that its record notes (None: from before
            hashes were noted).
    """
    changed: Outdated = {}
    for config, noted in made_with:
        if noted is not None and noted != methods.code_hash(config.method):
            files = methods.code_files(config.method)
            changed[config.run_id] = (" or ".join(map(methods.display, files)),)
    return changed


def outdated_runs(cells: list[Cell], records: Records) -> Outdated:
    """`outdated_code` of the finished runs of these cells."""
    return outdated_code(
        (config, records.done[config.run_id].method_code)
        for cell in cells
        for config in cell.runs
        if config.run_id in records.done
    )
