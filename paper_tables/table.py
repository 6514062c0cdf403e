"""A table's numbers: every cell with ours, spread, seeds, runs, printed number, flag and rank.

Ranks follow the paper's marks: best is bold and second best underlined, among the rows of the same
checkpoint (starred rows and SSF apart from the others), in every accuracy column, by the numbers
as printed, equal numbers sharing a mark. The parameter column has none.
"""

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import orjson
import pandas as pd

from . import select
from .records import Records, is_dirty
from .specs import Cell, Profile, Spec

PRINTED = Path(__file__).with_name("printed")
PARAMS = "Params. (M)"
COUNTS = {
    "params_peft_m": "method (M)",
    "params_head_m": "head (M)",
    "params_total_m": "method and head (M)",
}
LONG = (
    *("table", "row", "label", "row_group", "column", "kind", "column_group", "heading"),
    *("ours", "std", "seeds", "wanted", "failed", "dirty", "rank"),
    *("printed", "printed_rank", "recomputed", "flag", "delta", "runs"),
)


@dataclass
class Table:
    """A table with its numbers.

    long: one line a cell (columns LONG); records: one line a run.
    """

    spec: Spec
    profile: Profile
    rule: str
    cells: list[Cell]
    long: pd.DataFrame
    records: pd.DataFrame
    title: str
    notes: list[str]
    printed: bool  # whether the paper prints numbers for these cells

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


def rounded(value: float, digits: int) -> str:
    """A number as a person rounds it: half goes up, not to the even neighbour."""
    exact = Decimal(repr(round(float(value), 9)))
    return str(exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def build(
    cells: list[Cell], records: Records, profile: Profile, rule: str = "recipe", remark: str = ""
) -> Table:
    """The table of these cells (of one spec) from the records.

    remark: what else must be said about ours, such as settings changed on the command line.
    """
    spec, cells = cells[0].spec, select.decide(cells, records.get)
    paper = {}
    if spec.benchmark == cells[0].task.benchmark:
        paper = printed_numbers(spec)
    flags = flagged(spec) if paper else {}
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row.key, []).append(cell)
    lines = [line for own in rows.values() for line in _row_lines(own, records, rule)]
    for line in lines:
        key = (line["row"], line["column"])
        line["printed"] = paper.get(key, math.nan)
        line["recomputed"], line["flag"] = flags.get(key, (math.nan, ""))
        line["delta"] = _delta(line)
    _rank(lines, "ours", "rank")
    _rank(lines, "printed", "printed_rank")
    return Table(
        spec=spec,
        profile=profile,
        rule=rule,
        cells=cells,
        long=pd.DataFrame(lines, columns=LONG),
        records=_runs(cells, records),
        title=_title(cells, profile),
        notes=_notes(cells, profile, rule, remark),
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
    own = frame[frame["table"] == spec.name]
    return {(f.row, f.column): (f.recomputed, f.what) for f in own.itertuples()}


def _title(cells: list[Cell], profile: Profile) -> str:
    title = cells[0].spec.title
    if profile.note:
        backbones = sorted({cell.like.backbone for cell in cells if cell.like})
        title = f"{title.split(':')[0]}, {profile.name} profile: {', '.join(backbones)}"
    return title


def _notes(cells: list[Cell], profile: Profile, rule: str, remark: str) -> list[str]:
    """What is said below the table; the last one is about ours."""
    seeds = len({cell.seed for cell in cells})
    how = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    sizes = sorted({len(cell.trials) for cell in cells if cell.trials})
    grid = (
        f"{' to '.join(map(str, sizes[:: max(1, len(sizes) - 1)]))} settings tried" if sizes else ""
    )
    how = ", ".join(part for part in (select.LABELS[rule], grid, how, remark) if part)
    notes = [profile.note or cells[0].spec.note]
    if profile.note:
        played: dict[str, set[str]] = {}
        for c in cells:
            if c.like and c.like.backbone != c.row.backbone:
                played.setdefault(c.like.backbone, set()).add(c.row.backbone)
        notes += [f"{ours} in place of {' and '.join(sorted(p))}." for ours, p in played.items()]
    return [*(note for note in notes if note), f"Ours: {how}."]


def _row_lines(cells: list[Cell], records: Records, rule: str) -> list[dict[str, Any]]:
    """A row's lines: its tasks, its means, its parameters in millions."""
    spec, row = cells[0].spec, cells[0].row
    by_task: dict[str, list[Cell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task.name, []).append(cell)
    lines: list[dict[str, Any]] = []

    def line(column: str, kind: str, group: str, heading: str, **values: Any) -> None:
        line = dict.fromkeys(LONG, math.nan) | {"runs": "", "flag": ""}
        line |= {"table": spec.name, "row": row.key, "label": row.label, "row_group": row.group}
        line |= {"column": column, "kind": kind, "column_group": group, "heading": heading}
        lines.append(line | values)

    scores: dict[str, list[select.Score]] = {}
    for name, own in by_task.items():
        ids = [cell.config.run_id for cell in own if cell.config]
        score = select.score(ids, records.done, rule)
        task = own[0].task
        scores.setdefault(task.group, []).append(score)
        line(
            *(name, "task", task.group, task.label),
            ours=score.value,
            std=score.std,
            seeds=score.seeds,
            wanted=len(own),
            failed=sum(i in records.failed for i in ids),
            dirty=sum(i in records.done and is_dirty(records.done[i]) for i in ids),
            runs=" ".join(ids),
        )
    several = len(scores) > 1
    for group, own in scores.items():
        if several:
            line(f"mean_{group}", "group_mean", group, "Mean", **_mean([(own, 1 / len(own))]))
    everything = [score for own in scores.values() for score in own]
    n = len(everything)
    if n > 1:
        line("mean", "mean", "all", f"Mean of {n} tasks", **_mean([(everything, 1 / n)]))
    if several:
        weights = [(own, 1 / len(own) / len(scores)) for own in scores.values()]
        heading = f"Mean of {len(scores)} groups"
        line("mean_groups", "mean", "all", heading, **_mean(weights))
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
    scores = [score for own, _ in parts for score in own]
    found = {
        "seeds": min(score.seeds for score in scores),
        "wanted": max(score.wanted for score in scores),
    }
    if any(math.isnan(score.value) for score in scores):
        return found
    means = [
        math.fsum(weight * score.values[seed] for own, weight in parts for score in own)
        for seed in range(found["seeds"])
    ]
    return found | {"ours": mean(means), "std": stdev(means) if len(means) > 1 else math.nan}


def _millions(by_task: dict[str, list[Cell]], records: Records) -> dict[str, float]:
    """Trainable parameters in millions, averaged over the tasks; NaN while one has no run."""
    found = []
    for own in by_task.values():
        ids = [cell.config.run_id for cell in own if cell.config]
        found.append(next((records.done[i] for i in ids if i in records.done), None))
    if None in found:
        return dict.fromkeys(COUNTS, math.nan)
    return {key: mean(record[key[:-2]] for record in found) / 1e6 for key in COUNTS}


def _rank(lines: list[dict[str, Any]], source: str, into: str) -> None:
    """Dense ranks, 1 is best, by the printed text, among the rows of a group; see the top."""
    columns: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if line["kind"] in ("task", "group_mean", "mean") and not math.isnan(line[source]):
            columns.setdefault((line["row_group"], line["column"]), []).append(line)
    for own in columns.values():
        if len(own) < 2:
            continue  # best of one says nothing
        shown = [float(rounded(line[source], 1)) for line in own]
        order = sorted(set(shown), reverse=True)
        for line, value in zip(own, shown, strict=True):
            line[into] = order.index(value) + 1


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _runs(cells: list[Cell], records: Records) -> pd.DataFrame:
    """One line a finished run: row, config and record flattened; curves stay in the JSON.

    Trials come before the run that they decide about, once a row and task.
    """
    columns: dict[str, list] = {}  # no list of lines: thousands of wide ones take much memory
    recipes: list[dict[str, Any]] = []  # few different ones: spread out at the end
    sources: list[str] = []
    asked: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        for config in cell.runs:
            asked.setdefault((cell.row.key, config.run_id), cell)
    for (_, run_id), cell in asked.items():
        record = records.done.get(run_id)
        if record is None:
            continue
        config = dict(record["config"])
        recipe = config.pop("recipe")
        config["options"] = _json(config["options"])
        rest = {k: v for k, v in record.items() if k not in ("config", "schema")}
        rest = {k: _json(v) if isinstance(v, list) else v for k, v in rest.items()}
        head = {"table": cell.spec.name, "row": cell.row.key, "run_id": rest.pop("run_id")}
        for key, value in (head | config | rest).items():
            column = columns.setdefault(key, [])
            column += [None] * (len(recipes) - len(column))
            column.append(value)
        recipes.append(recipe)
        sources.append(cell.source)
    if not recipes:
        return pd.DataFrame()
    columns = {key: own + [None] * (len(recipes) - len(own)) for key, own in columns.items()}
    for key in dict.fromkeys(key for own in {id(r): r for r in recipes}.values() for key in own):
        columns[f"recipe_{key}"] = [recipe.get(key) for recipe in recipes]
    return pd.DataFrame(columns | {"recipe_source": sources})
