"""Where a cell comes from: its number, runs, protocol, recipe, options and source."""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .. import methods
from ..benchmarks.config import RunConfig
from ..benchmarks.record import RunRecord
from ..methods.errors import ConfigError, nearest
from . import views
from .marks import ALIKE, differences, outdated_runs
from .plan import Cell, TableRequest
from .records import Records
from .select import RULES, rounded
from .table import build


def why(request: TableRequest, column: str, records: Records) -> str:
    """The story of a cell: `request` names one row, `column` a heading or a column's key.

    Raises:
        ConfigError: an unknown row or column.
    """
    built = build(request, records)
    cells, long = built.cells, built.long
    asked = column.lower()
    by_key, by_heading = (long[long[key].str.lower() == asked] for key in ("column", "heading"))
    lines_of = by_heading if by_key.empty else by_key  # every group has a mean headed "Mean"
    if lines_of.empty:
        names = list(dict.fromkeys([*long["heading"], *long["column"]]))
        raise ConfigError(
            f"unknown column {column!r} of {built.spec.name}; {nearest(column, names)}"
        )
    line = lines_of.iloc[0]
    digits = 1 if line["kind"] in ("task", "group_mean", "mean") else 2
    text = [
        f"{built.title}",
        f"{line['label']}, {line['heading']} ({line['column']}), profile {request.profile.name}",
        f"ours     {_number(line['ours'], digits)}"
        + (f" ± {line['std']:.2f}" if line["std"] == line["std"] else ""),
        f"printed  {_number(line['printed'], digits)}"
        + (f"  {views.FLAG} {line['flag']}" if line["flag"] else ""),
        f"protocol {request.protocol}: {built.notes[-1].removeprefix('Ours: ')}",
        f"rule     {RULES[cells[0].rule]}",
    ]
    if built.printed:
        row = cells[0].row
        text.append(f"         the printed number: {RULES[row.printed_rule]}; {row.printed_source}")
    behind = cells
    if line["kind"] == "task":
        behind = [c for c in cells if c.task.name == line["column"]]
    elif line["kind"] == "group_mean":
        behind = [c for c in cells if c.task.group == line["column_group"]]
    text += [f"source   {source}" for source in dict.fromkeys(c.source for c in behind) if source]
    if line["kind"] == "task" and behind[0].config:
        text += _settings(behind[0].config)
    text += [
        note.replace("Made from:", "made of ").removesuffix(".") for note in views.made_from(built)
    ]
    text += _differing(behind, records)
    if line["kind"] == "task":
        text += [f"trial    {_trial(trial, behind[0], records)}" for trial in behind[0].trials]
    text += [f"run      {_run(cell, records)}" for cell in behind]
    return "\n".join(text)


def _settings(config: RunConfig) -> list[str]:
    """Backbone, method, and every option and recipe key with its value, defaults too."""
    options = dataclasses.asdict(methods.options(config.method, config.options))
    recipe = dataclasses.asdict(config.recipe)
    return [
        f"backbone {config.backbone}",
        f"method   {config.method}",
        f"options  {_pairs(options, config.options) or 'none'}",
        f"recipe   {_pairs(recipe)}",
    ]


def _pairs(values: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> str:
    """Keys with values; if `chosen` is given, what is not in it is marked as a default."""
    shown = {
        key: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for key, value in values.items()
    }
    default = {key: chosen is not None and key not in chosen for key in values}
    return ", ".join(f"{k} {v}{' (default)' if default[k] else ''}" for k, v in shown.items())


def _differing(cells: list[Cell], records: Records) -> list[str]:
    """A line for everything that the runs should have in common but do not."""
    tasks: dict[str, list[RunRecord]] = {}
    for cell in cells:
        if cell.config and cell.config.run_id in records.done:
            tasks.setdefault(cell.task.name, []).append(records.done[cell.config.run_id])
    lines = []
    for key, values in differences(list(tasks.values())).items():
        counted = ", ".join(f"{value[:20]} ({_runs(n)})" for value, n in values.items())
        lines.append(f"differs  {views.MIXED} {ALIKE[key]}: {counted}")
    return lines


def _runs(n: int) -> str:
    return f"{n} run{'s' * (n != 1)}"


def _number(value: float, digits: int) -> str:
    return views.MISSING if value != value else rounded(value, digits)


def _trial(trial: RunConfig, cell: Cell, records: Records) -> str:
    record = records.get(trial.run_id)
    told = "no record"
    if record is not None:
        told = record.error or record.status
        if record.done:
            told = f"{record.top1_val:.2f} on validation images"
    own, final = cell.config, cell.final(trial)
    won = own is not None and replace(final, eval_every=own.eval_every) == own
    return f"{trial.run_id}  {trial.name.partition(': ')[2]}: {told}{', chosen' if won else ''}"


def _run(cell: Cell, records: Records) -> str:
    if cell.config is None:
        return f"{cell.task.label} seed {cell.seed}: {cell.reason}"
    run_id = cell.config.run_id
    text = f"{run_id}  {cell.task.label} seed {cell.seed}"
    if run_id in records.failed:
        return f"{text}: failed: {records.failed[run_id].error}"
    if run_id not in records.done:
        apart = records.apart.get(f"{run_id}.json")
        return f"{text}: {'kept apart: ' + apart if apart else 'no record'}"
    record = records.done[run_id]
    text += f": last {record.top1_last:.2f}"
    if record.top1_best_test is not None:
        text += f", best on test {record.top1_best_test:.2f}"
    if record.top1_best_10 is not None:
        text += f", best of every 10th epoch {record.top1_best_10:.2f}"
    commit = (record.git_commit or record.version or "unknown")[:12]
    marks = f" {views.DIRTY} uncommitted changes" if record.dirty else ""
    if changed := outdated_runs([cell], records).get(run_id):
        marks += f" {views.OUTDATED} made with another {', '.join(changed)}"
    made = [record.precision or "", f"{record.data_variant} images", f"commit {commit}{marks}"]
    return ", ".join([text, record.ended or "", record.device or "", *made])
