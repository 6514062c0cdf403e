"""A table's numbers: every cell with ours, spread, seeds, runs, printed number, flag and rank.

Ranks follow the paper's marks: best is bold and second best underlined, among the rows of the same
checkpoint (starred rows and SSF apart from the others), in every accuracy column, by the numbers
as printed, equal numbers sharing a mark. The parameter column has none.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import orjson
import pandas as pd

from ..benchmarks.config import Recipe, RunConfig
from ..benchmarks.record import FIELDS, RunRecord
from . import select
from .marks import mixture, outdated_runs
from .plan import Cell, TableRequest, plan
from .records import Outdated, Records
from .select import rounded
from .specs import Profile, Spec

PRINTED = Path(__file__).with_name("printed")
PARAMS = "Params. (M)"
COUNTS = {
    "params_peft_m": "method (M)",
    "params_head_m": "head (M)",
    "params_total_m": "method and head (M)",
}
LONG = (
    *("table", "row", "label", "row_group", "column", "kind", "column_group", "heading"),
    *("ours", "std", "seeds", "wanted", "failed", "dirty", "mixed", "outdated", "rank"),
    *("printed", "printed_rank", "recomputed", "flag", "delta", "runs"),
)


@dataclass
class Table:
    """A table with its numbers.

    long: one line a cell (columns LONG); runs: one line a run.
    """

    request: TableRequest
    cells: list[Cell]
    long: pd.DataFrame
    runs: pd.DataFrame
    title: str
    notes: list[str]
    printed: bool  # whether the paper prints numbers for these cells

    @property
    def spec(self) -> Spec:
        return self.request.spec

    @property
    def profile(self) -> Profile:
        return self.request.profile

    @property
    def name(self) -> str:
        """The stem of its files: a part of a table has another one than the whole."""
        return self.request.name

    @property
    def seeds(self) -> int:
        return len({cell.seed for cell in self.cells})

    def complete(self) -> pd.DataFrame:
        """Our accuracy by row and task, rows without a missing cell only."""
        return self.by_task("ours").dropna()

    def by_task(self, source: str) -> pd.DataFrame:
        """Accuracy ("ours" or "printed") by row key and task, rows and tasks in order."""
        cells = self.long[self.long["kind"] == "task"]
        wide = cells.pivot(index="row", columns="column", values=source)
        return wide.loc[cells["row"].unique(), cells["column"].unique()]


def build(
    request: TableRequest,
    records: Records,
    *,
    cells: list[Cell] | None = None,
    outdated: Outdated | None = None,
) -> Table:
    """The table of a request from the records.

    Args:
        cells: the plan of the request, if the caller has made it already.
        outdated: runs that were made with other weights or pixels than today's, if that is known;
            those of a changed method file are found here.
    """
    spec = request.spec
    cells = plan(request) if cells is None else cells
    cells = select.decide(cells, records.get, records.done.keys())
    outdated = outdated_runs(cells, records) | (outdated or {})
    paper = printed_numbers(spec) if spec.benchmark == cells[0].task.benchmark else {}
    flags = flagged(spec) if paper else {}
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row.key, []).append(cell)
    lines = [
        line for row_cells in rows.values() for line in _row_lines(row_cells, records, outdated)
    ]
    for line in lines:
        key = (line["row"], line["column"])
        line["printed"] = paper.get(key, math.nan)
        line["recomputed"], line["flag"] = flags.get(key, (math.nan, ""))
        line["delta"] = _delta(line)
    if request.protocol != "printed":  # its numbers are not for comparing rows
        _rank(lines, "ours", "rank")
    _rank(lines, "printed", "printed_rank")
    return Table(
        request=request,
        cells=cells,
        long=pd.DataFrame(lines, columns=LONG),
        runs=_runs(cells, records),
        title=_title(cells, request.profile),
        notes=_notes(cells, request),
        printed=bool(paper),
    )


def _delta(line: dict[str, Any]) -> float:
    """Ours at the paper's precision minus printed: 0 where the two would be printed alike."""
    if math.isnan(line["ours"]) or math.isnan(line["printed"]):
        return math.nan
    shown = rounded(line["ours"], 2 if line["kind"] == "params" else 1)
    return round(float(shown) - line["printed"], 9)


def printed_numbers(spec: Spec) -> dict[tuple[str, str], float]:
    """The paper's cells of a table by (row, column); empty if there are none."""
    path = PRINTED / f"{spec.name}.csv"
    if not path.is_file():
        return {}
    frame = pd.read_csv(path)
    return dict(zip(zip(frame["row"], frame["column"], strict=True), frame["value"], strict=True))


def flagged(spec: Spec) -> dict[tuple[str, str], tuple[float, str]]:
    """Printed means that are not the mean of the printed cells: (recomputed, what is known)."""
    frame = pd.read_csv(PRINTED / "flags.csv")
    of_table = frame[frame["table"] == spec.name]
    return {(f.row, f.column): (f.recomputed, f.what) for f in of_table.itertuples()}


def _title(cells: list[Cell], profile: Profile) -> str:
    title = cells[0].spec.title
    if profile.note:
        backbones = sorted({cell.like.backbone for cell in cells if cell.like})
        title = f"{title.split(':')[0]}, {profile.name} profile: {', '.join(backbones)}"
    return title


def _notes(cells: list[Cell], request: TableRequest) -> list[str]:
    """Footnotes; the last one says how our numbers were selected."""
    profile = request.profile
    seeds = len({cell.seed for cell in cells})
    how = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    sizes = sorted({len(cell.trials) for cell in cells if cell.trials})
    grid = (
        f"{' to '.join(map(str, sizes[:: max(1, len(sizes) - 1)]))} settings tried" if sizes else ""
    )
    rule = select.LABELS[request.protocol]
    if request.protocol == "printed":
        rules = ((c.row.label, c.row.printed_rule) for c in cells if c.row.printed_source)
        rule += f": {select.rows_by_rule(rules)}"
        if any(cell.row.printed_rule == "unknown" for cell in cells):
            rule += "; where it is unknown, or there is no printed number, the last epoch"
        grid = ""  # of some rows only
    parts = (rule, grid, how, request.remark)
    notes = [profile.note or request.spec.note]
    if profile.note:
        stand_ins: dict[str, set[str]] = {}
        for c in cells:
            if c.like and c.like.backbone != c.row.backbone:
                stand_ins.setdefault(c.like.backbone, set()).add(c.row.backbone)
        notes += [f"{ours} in place of {' and '.join(sorted(p))}." for ours, p in stand_ins.items()]
    ours = ", ".join(part for part in parts if part)
    return [*(note for note in notes if note), f"Ours: {ours}."]


def _row_lines(cells: list[Cell], records: Records, outdated: Outdated) -> list[dict[str, Any]]:
    """A row's lines: its tasks, its means, its parameters in millions."""
    spec, row = cells[0].spec, cells[0].row
    by_task: dict[str, list[Cell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task.name, []).append(cell)
    lines: list[dict[str, Any]] = []

    def line(column: str, kind: str, group: str, heading: str, **values: Any) -> None:
        line = dict.fromkeys(LONG, math.nan) | {"runs": "", "flag": "", "mixed": ""}
        line |= {"table": spec.name, "row": row.key, "label": row.label, "row_group": row.group}
        line |= {"column": column, "kind": kind, "column_group": group, "heading": heading}
        lines.append(line | values)

    scores: dict[str, list[select.Score]] = {}
    made: dict[str, list[list[RunRecord]]] = {}  # by group: the records of each of its tasks
    for name, task_cells in by_task.items():
        ids = [cell.config.run_id for cell in task_cells if cell.config]
        score = select.score(ids, records.done, task_cells[0].rule)
        task = task_cells[0].task
        finished = [records.done[i] for i in ids if i in records.done]
        scores.setdefault(task.group, []).append(score)
        made.setdefault(task.group, []).append(finished)
        line(
            *(name, "task", task.group, task.label),
            ours=score.value,
            std=score.std,
            seeds=score.seeds,
            wanted=len(task_cells),
            failed=sum(i in records.failed for i in ids),
            dirty=sum(record.dirty for record in finished),
            mixed=mixture([finished]),
            outdated=sum(record.run_id in outdated for record in finished),
            runs=" ".join(ids),
        )
    several = len(scores) > 1
    for group, group_scores in scores.items():
        if several:
            mean_of_group = _mean([(group_scores, 1 / len(group_scores))])
            mixed = mixture(made[group])
            line(f"mean_{group}", "group_mean", group, "Mean", mixed=mixed, **mean_of_group)
    everything = [score for group_scores in scores.values() for score in group_scores]
    mixed = mixture([records for tasks in made.values() for records in tasks])
    n = len(everything)
    if n > 1:
        mean_of_all = _mean([(everything, 1 / n)])
        line("mean", "mean", "all", f"Mean of {n} tasks", mixed=mixed, **mean_of_all)
    if several:
        weights = [(of_group, 1 / len(of_group) / len(scores)) for of_group in scores.values()]
        heading = f"Mean of {len(scores)} groups"
        line("mean_groups", "mean", "all", heading, mixed=mixed, **_mean(weights))
    counts = _millions(by_task, records)
    line("params_m", "params", "all", PARAMS, ours=counts[_convention(row.params)])
    for key, heading in COUNTS.items():
        line(key, "count", "all", heading, ours=counts[key])
    return lines


def _convention(params: str) -> str:
    return {"trainable": "params_total_m", "method": "params_peft_m"}[params]


def _mean(parts: list[tuple[list[select.Score], float]]) -> dict[str, Any]:
    """A weighted mean over tasks, its spread over seeds; NaN if one of the cells is not complete.

    The spread is that of the means: one mean for every seed, then their standard deviation.
    """
    weighted = [(score, weight) for scores, weight in parts for score in scores]
    seeds = min(score.seeds for score, _ in weighted)
    values = {"seeds": seeds, "wanted": max(score.wanted for score, _ in weighted)}
    if any(math.isnan(score.value) for score, _ in weighted):
        return values
    means = [
        math.fsum(weight * score.values[seed] for score, weight in weighted)
        for seed in range(seeds)
    ]
    return values | {"ours": mean(means), "std": stdev(means) if len(means) > 1 else math.nan}


def _millions(by_task: dict[str, list[Cell]], records: Records) -> dict[str, float]:
    """Trainable parameters in millions, averaged over the tasks; NaN while one has no run."""
    one_of_each = []
    for cells in by_task.values():
        ids = [cell.config.run_id for cell in cells if cell.config]
        one_of_each.append(next((records.done[i] for i in ids if i in records.done), None))
    if None in one_of_each:
        return dict.fromkeys(COUNTS, math.nan)
    return {key: mean(getattr(record, key[:-2]) for record in one_of_each) / 1e6 for key in COUNTS}


def _rank(lines: list[dict[str, Any]], source: str, into: str) -> None:
    """Dense ranks, 1 is best, by the printed text, among the rows of a group; see the top."""
    columns: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if line["kind"] in ("task", "group_mean", "mean") and not math.isnan(line[source]):
            columns.setdefault((line["row_group"], line["column"]), []).append(line)
    for compared in columns.values():
        if len(compared) < 2:
            continue  # best of one says nothing
        shown = [float(rounded(line[source], 1)) for line in compared]
        order = sorted(set(shown), reverse=True)
        for line, value in zip(compared, shown, strict=True):
            line[into] = order.index(value) + 1


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _runs(cells: list[Cell], records: Records) -> pd.DataFrame:
    """One line a finished run: row, config and record flattened; curves stay in the JSON.

    Trials come before the run that they decide about, once a row and task.
    """
    asked: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        for config in cell.runs:
            if config.run_id in records.done:
                asked.setdefault((cell.row.key, config.run_id), cell)
    if not asked:
        return pd.DataFrame()
    # column by column: a list of thousands of wide lines takes much memory
    made = [records.done[run_id] for _, run_id in asked]
    columns: dict[str, list[Any]] = {
        "table": [cell.spec.name for cell in asked.values()],
        "row": [row for row, _ in asked],
        "run_id": [run_id for _, run_id in asked],
    }
    for name in RUN_FIELDS:
        values = (getattr(record.config, name) for record in made)
        columns[name] = [_json(v) if isinstance(v, dict) else v for v in values]
    for name in RECORD_FIELDS:
        values = (getattr(record, name) for record in made)
        columns[name] = [_json(v) if isinstance(v, tuple | dict) else v for v in values]
    for name in RECIPE_FIELDS:
        columns[f"recipe_{name}"] = [getattr(record.config.recipe, name) for record in made]
    return pd.DataFrame(columns | {"recipe_source": [cell.source for cell in asked.values()]})


RUN_FIELDS = tuple(f.name for f in dataclasses.fields(RunConfig) if f.name != "recipe")
RECIPE_FIELDS = tuple(f.name for f in dataclasses.fields(Recipe))
RECORD_FIELDS = tuple(n for n in FIELDS if n not in ("schema", "run_id", "config", "curve"))
