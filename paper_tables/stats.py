"""What a reader needs beside the paper's tables: tests over tasks, selection optimism, costs."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata, wilcoxon

from .records import Records
from .table import PRINTED, Table

PAIRS = (
    *("table", "source", "rows", "a", "b", "tasks", "seeds", "mean_difference"),
    *("wins", "losses", "statistic", "p", "p_holm", "least_p"),
)
OPTIMISM = (
    *("table", "row", "label", "runs", "tasks", "seeds", "last", "best_10", "best_test"),
    *("optimism_10", "optimism", "published", "published_of"),
)
OF_PUBLISHED = {True: "this method", False: "mean of 15 methods"}
COSTS = (
    *("table", "row", "label", "runs", "device", "seconds_train", "seconds_total"),
    *("images_per_second", "peak_memory_mb", "gflops_per_image"),
)
MEDIANS = ("seconds_train", "seconds_total", "images_per_second", "gflops_per_image")


def pairs(table: Table) -> pd.DataFrame:
    """Every two complete rows of the same checkpoint, compared over their tasks.

    Two-sided Wilcoxon signed-rank tests on per-task means over seeds, ours and the printed numbers
    apart, with Holm's correction over all pairs of a checkpoint. least_p is the smallest p that so
    many tasks can give: with five it is 0.0625, and no difference could ever be called significant.
    """
    groups = table.long.drop_duplicates("row").set_index("row")["row_group"]
    lines: list[dict[str, Any]] = []
    for source in ("ours", "printed"):
        scores = table.by_task(source).dropna()
        for group in dict.fromkeys(groups):
            rows = [row for row in scores.index if groups[row] == group]
            compared = [
                _pair(scores.loc[a], scores.loc[b]) | {"a": a, "b": b}
                for a, b in combinations(rows, 2)
            ]
            for line, p in zip(compared, holm([line["p"] for line in compared]), strict=True):
                line |= {"table": table.spec.name, "source": source, "p_holm": p}
                line |= {"rows": group or "main", "tasks": scores.shape[1]}
                line |= {"seeds": table.seeds if source == "ours" else math.nan}
                line |= {"least_p": 2.0 ** (1 - scores.shape[1])}
            lines += compared
    return pd.DataFrame(lines, columns=PAIRS)


def _pair(a: pd.Series, b: pd.Series) -> dict[str, float]:
    """Differences are rounded to 1e-9, so that equal numbers tie however they were computed."""
    difference = np.round((a - b).to_numpy(dtype=float), 9)
    statistic, p = 0.0, 1.0
    if difference.any():
        result = wilcoxon(difference)
        statistic, p = float(result.statistic), float(result.pvalue)
    return {
        "mean_difference": float(difference.mean()),
        "wins": int((difference > 0).sum()),
        "losses": int((difference < 0).sum()),
        "statistic": statistic,
        "p": p,
    }


def holm(p: list[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted, so_far = [0.0] * len(p), 0.0
    for step, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p) - step) * p[i]))
        adjusted[i] = so_far
    return adjusted


def mean_ranks(scores: pd.DataFrame) -> pd.Series:
    """Mean rank over tasks of each row (1 is best, ties share), rows by tasks given."""
    ranks = rankdata(-scores.round(9).to_numpy(), axis=0)
    return pd.Series(ranks.mean(axis=1), index=scores.index)


def optimism(table: Table, records: Records) -> pd.DataFrame:
    """How much choosing an epoch on the test set adds to the last epoch's accuracy, by row.

    optimism is of the best epoch, optimism_10 of the best of every 10th. Over the runs that were
    scored on the test set after every epoch (--protocol best_test, --curve). All numbers are of the
    same runs; tasks weigh the same whatever their number of runs. published is what another code's
    stored runs show for the best epoch, ViT-B/16 on VTAB-1k (printed/optimism.csv).
    """
    lines = []
    methods = {cell.row.key: cell.row for cell in table.cells}
    alike = table.cells[0].task.benchmark == "vtab-1k" and all(
        cell.like is None or cell.like.backbone.startswith("vit_base_") for cell in table.cells
    )
    published = _published_optimism() if alike else {}
    for row, label, ids in _by_row(table):
        scored = [
            record
            for record in (records.done[i] for i in ids if i in records.done)
            if record.top1_best_test is not None
        ]
        frame = pd.DataFrame(
            {
                "task": [record.config.task for record in scored],
                "seed": [record.config.seed for record in scored],
                "last": [record.top1_last for record in scored],
                "best_10": [record.top1_best_10 for record in scored],
                "best_test": [record.top1_best_test for record in scored],
            }
        )
        means = frame.groupby("task")[["last", "best_10", "best_test"]].mean().mean()
        kind = methods[row]
        words = (f"{kind.method} {kind.options.get('mode', '')}".strip(), kind.method)
        known = next((word for word in words if word in published), "")
        lines.append(
            {
                **{"table": table.spec.name, "row": row, "label": label, "runs": len(scored)},
                **{"tasks": frame["task"].nunique(), "seeds": frame["seed"].nunique()},
                **means.to_dict(),
                "optimism_10": means["best_10"] - means["last"],
                "optimism": means["best_test"] - means["last"],
                "published": published.get(known, math.nan),
                "published_of": OF_PUBLISHED[bool(known)] if published else "",
            }
        )
    return pd.DataFrame(lines, columns=OPTIMISM)


def _published_optimism() -> dict[str, float]:
    """Points by method; the key "" is the mean over methods."""
    frame = pd.read_csv(PRINTED / "optimism.csv", keep_default_na=False)
    return dict(zip(frame["method"], frame["points"].astype(float), strict=True))


def costs(table: Table, records: Records) -> pd.DataFrame:
    """What a run costs, by row and device: medians over its runs, and the largest memory peak."""
    lines = []
    for row, label, ids in _by_row(table):
        made = [records.done[i] for i in ids if i in records.done]
        keys = ("device", "peak_memory_mb", *MEDIANS)
        frame = pd.DataFrame([[getattr(r, key) for key in keys] for r in made], columns=keys)
        for device, runs in frame.groupby("device"):
            line = {"table": table.spec.name, "row": row, "label": label, "device": device}
            line |= {"runs": len(runs), "peak_memory_mb": runs["peak_memory_mb"].max()}
            lines.append(line | {key: runs[key].median() for key in MEDIANS})
        if not made:
            lines.append({"table": table.spec.name, "row": row, "label": label, "runs": 0})
    return pd.DataFrame(lines, columns=COSTS)


def _by_row(table: Table) -> list[tuple[str, str, list[str]]]:
    """(row key, label, run ids) of every row."""
    rows: dict[str, tuple[str, str, list[str]]] = {}
    for cell in table.cells:
        entry = rows.setdefault(cell.row.key, (cell.row.key, cell.row.label, []))
        if cell.config:
            entry[2].append(cell.config.run_id)
    return list(rows.values())
