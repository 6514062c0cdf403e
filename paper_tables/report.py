"""One HTML page about a profile's results.

Self-contained: no network, no other file. Tables with sortable columns and three views, plots,
tests over tasks, selection optimism, costs, what is missing, failed or kept apart, provenance.
"""

import base64
import math
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from . import figures, output, specs, stats, views
from .marks import outdated_runs
from .records import Outdated, Records
from .specs import Profile
from .table import Table

TEMPLATE = Path(__file__).with_name("report.html")
COST_NOTE = """Medians over the runs of a row on one device; memory is the largest peak; FLOPs are
of one forward pass of one image, a multiply-add counted as two."""
PAIRS_NOTE = """Two rows over their tasks: two-sided Wilcoxon signed-rank tests on per-task accuracy
(mean over seeds), with Holm's correction over all pairs of rows of the same checkpoint. least_p is
the smallest p that so many tasks can give."""
OPTIMISM_NOTE = """Percentage points that choosing an epoch on the test set adds to the last epoch's
accuracy: the best of every 10th epoch (optimism 10) and of every epoch (optimism), over runs that
were scored after every epoch (--protocol best_test or --curve). Published: what the stored runs of
another code show for the best epoch on VTAB-1k with ViT-B/16, of this method where its value is
known, else the mean over 15 methods (Mai et al., CVPR 2025)."""


def render(profile: Profile, records: Records) -> str:
    """The page as HTML."""
    built = output.whole(specs.every(), profile, records)
    scored = output.whole(specs.every(), profile, records, "best_test")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    runs = len(records.done)
    ended = max((record.ended or "" for record in records.done.values()), default="")
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"RLRR benchmark: results of the {profile.name} profile",
        intro=f"{profile.note} {runs} finished runs, the newest of {ended or 'never'}; "
        f"state {records.state}.",
        views=views.VIEWS if any(table.printed for table in built) else (),
        tables=[_table(table, records) for table in built],
        frames=_frames(built, scored, records),
    )


def _table(table: Table, records: Records) -> dict[str, Any]:
    """What the template needs of a table; from its view `compare`, which has every column."""
    both = views.sheet(table, "compare")
    lines = {
        label: dict(zip(group.index.get_level_values(1), range(len(group)), strict=True))
        for label, group in both.text.groupby(level=0, sort=False)
    }
    columns = [column for column in both.text.columns if column != views.SEEDS]
    numbers = views.numbers(table)
    tasks = table.long[table.long["kind"] == "task"]
    first = {both.text.index[i][0] for i in both.breaks}
    rows = []
    for label, line_of in lines.items():
        text, marks = both.text.loc[label], both.marks.loc[label]
        cells = []
        for j, column in enumerate(columns):
            cell = numbers[label, *column]
            cells.append(
                {
                    "text": {w: text.iat[line_of[w], j] if w in line_of else "" for w in LINES},
                    "mark": {w: marks.iat[line_of[w], j] if w in line_of else "" for w in LINES},
                    "key": {w: _key(getattr(cell, w)) for w in LINES},
                    "title": _hint(cell),
                }
            )
        rows.append({"label": label, "first": label in first, "cells": cells})
    over = [(key, len(list(same))) for key, same in groupby(column[0] for column in columns)]
    over = [("" if name in views.UNNAMED else name.capitalize(), span) for name, span in over]
    drawn = figures.all_of(table)
    images = [(stem, _image(figure), caption) for stem, (figure, caption) in drawn.items()]
    for figure, _ in drawn.values():
        figures.plt.close(figure)
    return {
        "name": table.spec.name,
        "short": table.title.split(":")[0].split(",")[0],
        "title": table.title,
        "notes": " ".join(both.notes),
        "over": over if any(name for name, _ in over) else [],
        "headings": [heading for _, heading in columns],
        "rows": rows,
        "figures": images,
        "missing": _missing(tasks),
    }


LINES = ("ours", "std", "printed", "delta")


def _key(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _hint(cell: Any) -> str:
    parts = [f"{cell.seeds:.0f} of {cell.wanted:.0f} seeds"] if cell.seeds == cell.seeds else []
    parts += [f"{cell.failed:.0f} failed"] if cell.failed > 0 else []
    parts += [f"{cell.dirty:.0f} of code not committed"] if cell.dirty > 0 else []
    parts += [f"runs differ in {cell.mixed}"] if cell.mixed else []
    if cell.outdated > 0:
        parts.append(f"{cell.outdated:.0f} made with another method file or other inputs")
    parts += [cell.flag] if cell.flag else []
    parts += [f"runs {cell.runs}"] if cell.runs and cell.seeds else []
    return "; ".join(parts)


def _missing(tasks: pd.DataFrame) -> list[str]:
    lines = []
    for label, missing in tasks[tasks["ours"].isna()].groupby("label", sort=False):
        which = ", ".join(missing["heading"]) if len(missing) < 8 else "see the table"
        lines.append(f"{label}: {len(missing)} cells ({which})")
    return lines


def _image(figure: Any) -> str:
    data = base64.b64encode(figures.svg(figure).encode()).decode()
    return f"data:image/svg+xml;base64,{data}"


def _frames(built: list[Table], scored: list[Table], records: Records) -> list[dict[str, Any]]:
    """The page's other tables."""
    pairs = pd.concat([stats.pairs(table) for table in built])
    pairs = pairs[pairs["source"] == "ours"].drop(columns="source")
    optimism = pd.concat([stats.optimism(table, records) for table in scored])
    costs = pd.concat([stats.costs(table, records) for table in built])
    failed = pd.DataFrame(
        [
            {"run": run_id, **{k: getattr(r.config, k) for k in WHICH}, "error": r.error}
            for run_id, r in records.failed.items()
        ]
    )
    apart = [{"file": name, "reason": reason} for name, reason in records.apart.items()]
    marked = [(run_id, views.DIRTY, "code not committed") for run_id in records.dirty]
    marked += [
        (run_id, views.OUTDATED, f"made with another {', '.join(what)}")
        for run_id, what in _outdated([*built, *scored], records).items()
    ]
    apart += [
        {"file": f"{run_id}.json", "reason": f"counted, marked {mark}: {why}"}
        for run_id, mark, why in marked
    ]
    return [
        _frame("Costs", COST_NOTE, costs[costs["runs"] > 0]),
        _frame("Tests over tasks", PAIRS_NOTE, pairs),
        _frame("Selection optimism", OPTIMISM_NOTE, optimism[optimism["runs"] > 0]),
        _frame("Failures", "Runs that ended with an error.", failed),
        _frame(
            "Kept apart or marked",
            "Records that no table counts, and those that are counted and marked.",
            pd.DataFrame(apart),
        ),
        _frame("Provenance", "Code, versions and devices of the finished runs.", _made(records)),
        _frame("Recipes", "Whose settings the rows are trained with.", _recipes(built)),
    ]


def _outdated(tables: list[Table], records: Records) -> Outdated:
    changed: Outdated = {}
    for table in tables:
        changed |= outdated_runs(table.cells, records)
    return changed


WHICH = ("task", "method", "backbone", "seed")


def _frame(title: str, note: str, frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "id": title.lower().replace(" ", "-"),
        "title": title,
        "note": note,
        "headings": [str(name).replace("_", " ") for name in frame.columns],
        "lines": [[_shown(value) for value in line] for line in frame.itertuples(index=False)],
    }


def _shown(value: Any) -> tuple[str, str, bool]:
    """A value's sort key, its text, and whether it is words."""
    if isinstance(value, str):
        return value, value, True
    if value is None or value != value:
        return "", views.MISSING, False
    return f"{value:.6g}", f"{value:.4g}", False


def _made(records: Records) -> pd.DataFrame:
    """The number of runs by code, versions and device."""
    keys = ("git_commit", "torch", "timm", "python", "device", "precision", "data_variant")
    counts: Counter = Counter()
    for record in records.done.values():
        commit = (record.git_commit or record.version or "unknown")[:12]
        commit += views.DIRTY if record.dirty else ""
        counts[commit, *(str(getattr(record, key)) for key in keys[1:])] += 1
    names = [key.removeprefix("git_") for key in keys]
    return pd.DataFrame([[*made, runs] for made, runs in counts.items()], columns=[*names, "runs"])


def _recipes(built: list[Table]) -> pd.DataFrame:
    sources = {
        (table.spec.name, cell.row.label, cell.source or cell.reason): None
        for table in built
        for cell in table.cells
    }
    return pd.DataFrame(list(sources), columns=["table", "row", "recipe"])
