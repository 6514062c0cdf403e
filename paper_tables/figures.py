"""Figures from a built table, sized for one column of a paper, safe for the colour-blind."""

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from ..benchmarks.files import replacing
from . import stats
from .table import Table

WIDTH = 3.35  # inches: a column of a two-column paper
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.hashsalt": "rlrr-bench",  # the same figure is the same file
}
# of the Okabe-Ito palette, with a marker each, so that grey prints tell them apart too
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
BLUE, ORANGE = COLOURS[0], COLOURS[3]
LEADER = {"arrowstyle": "-", "lw": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 2}
PLACES = [  # where a label may lie beside its point: offset in points, alignment
    *[(5, 0, "left", "center"), (-5, 0, "right", "center")],
    *[(0, 5, "center", "bottom"), (0, -5, "center", "top")],
    *[(5, 6, "left", "bottom"), (5, -6, "left", "top")],
    *[(-5, 6, "right", "bottom"), (-5, -6, "right", "top")],
    *[(8, 14, "left", "bottom"), (8, -14, "left", "top")],
    *[(-8, 14, "right", "bottom"), (-8, -14, "right", "top")],
    *[(0, 22, "center", "bottom"), (0, -22, "center", "top")],
    *[(14, 8, "left", "bottom"), (14, -8, "left", "top")],
    *[(24, 0, "left", "center"), (24, 10, "left", "bottom"), (24, -10, "left", "top")],
    *[(-14, 8, "right", "bottom"), (-14, -8, "right", "top")],
    *[(-24, 0, "right", "center"), (-24, 10, "right", "bottom"), (-24, -10, "right", "top")],
]


def all_of(table: Table) -> dict[str, tuple[Figure, str]]:
    """The figures of a table by file stem, each with its caption.

    Those without data are left out, except for the paper's own, Fig. 2.
    """
    name = table.name
    figures: dict[str, tuple[Figure, str] | None] = {}
    with plt.rc_context(STYLE):
        if any("layers" in config.options for cell in table.cells if (config := cell.like)):
            figures[name] = modules_and_layers(table)
        else:
            figures[f"{name}_parameters"] = accuracy_against_parameters(table)
            figures |= critical_differences(table)
    return {stem: drawn for stem, drawn in figures.items() if drawn}


def modules_and_layers(table: Table) -> tuple[Figure, str]:
    """Fig. 2: accuracy against the number of layers, a line a module set, a band a seed spread."""
    configs = {cell.row.key: cell.like for cell in table.cells if cell.like}
    long = table.long[table.long["kind"] == "task"]
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for row in long.itertuples():
        layers = int(configs[row.row].options["layers"].partition(":")[2])
        lines.setdefault(row.row_group, []).append((layers, row.ours, row.std))
    figure, axes = plt.subplots(figsize=(WIDTH, 2.5), layout="constrained")
    ticks = sorted({x for points in lines.values() for x, _, _ in points})
    for (name, points), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
        frame = pd.DataFrame(sorted(points), columns=["x", "y", "std"])
        axes.plot(frame.x, frame.y, marker=marker, color=colour, label=name, markersize=4, lw=1.2)
        low, high = frame.y - frame["std"], frame.y + frame["std"]
        axes.fill_between(frame.x, low, high, color=colour, alpha=0.15, lw=0)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.set_xlim(ticks[0] - 0.05 * ticks[-1], ticks[-1] * 1.05)
    axes.set_xlabel("number of adapted layers")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.legend(frameon=False, fontsize=7)
    if long["ours"].isna().all():
        axes.text(0.5, 0.5, "no runs yet", transform=axes.transAxes, ha="center", color="0.4")
        axes.set_yticks([])
        axes.get_legend().remove()
    band = " Band: standard deviation over seeds." if table.seeds > 1 else ""
    tasks = " and ".join(long["heading"].unique())
    return figure, f"Accuracy on {tasks} against the number of layers that RLRR adapts.{band}"


def accuracy_against_parameters(table: Table) -> tuple[Figure, str] | None:
    """Mean accuracy against trained parameters (head included), a point a complete row."""
    wide = table.long.pivot(index="label", columns="column", values="ours")
    wide = wide.reindex(columns=["params_total_m", "mean"]).dropna()
    points = [(row.Index, row.params_total_m, row.mean) for row in wide.itertuples()]
    points = [point for point in points if point[1] > 0]
    if not points:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9), layout="constrained")
    axes.set_xscale("log")
    for label, x, y in points:
        rlrr = label.startswith("RLRR")
        axes.plot(x, y, "D" if rlrr else "o", color=ORANGE if rlrr else BLUE, markersize=4)
    axes.set_xlabel("trained parameters, head included (millions)")
    axes.set_ylabel("mean top-1 accuracy (%)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if wide["params_total_m"].max() / wide["params_total_m"].min() > 50:
        axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.1)
    _label(axes, points)
    return figure, "Mean accuracy against trained parameters."


def _label(axes: Axes, points: list[tuple[str, float, float]]) -> None:
    """Put every label beside its point, where it covers no point and no other label."""
    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg has one
    frame = axes.get_window_extent(renderer)
    spots = [axes.transData.transform(point[1:]) for point in points]
    radius = 3 * figure.dpi / 72
    marks = [Bbox.from_bounds(a - radius, b - radius, 2 * radius, 2 * radius) for a, b in spots]
    taken: list[Bbox] = []
    for (label, x, y), _ in sorted(zip(points, spots, strict=True), key=lambda item: -item[1][1]):
        best: tuple[int, Text, Bbox] | None = None
        for dx, dy, across, up in PLACES:
            text = axes.annotate(
                label,
                (x, y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=across,
                va=up,
                size=6.5,
                arrowprops=LEADER if max(abs(dx), abs(dy)) > 5 else None,
            )
            text.set_in_layout(False)
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # of the words, without their line
            clashes = sum(box.overlaps(other) for other in taken)
            clashes += sum(box.overlaps(mark) for mark in marks)
            clashes += not (frame.x0 <= box.x0 and box.x1 <= frame.x1 + 2)
            clashes += not (frame.y0 <= box.y0 and box.y1 <= frame.y1)
            if best is None or clashes < best[0]:
                if best:
                    best[1].remove()
                best = (clashes, text, box)
            else:
                text.remove()
            if clashes == 0:
                break
        assert best is not None  # PLACES is not empty
        taken.append(best[2])


def critical_differences(table: Table) -> dict[str, tuple[Figure, str]]:
    """Mean ranks over tasks, ours; a bar joins rows that pairwise tests cannot tell apart.

    One diagram a checkpoint with three complete rows or more.
    """
    compared = stats.pairs(table)
    compared = compared[compared["source"] == "ours"]
    labels = table.long.drop_duplicates("row").set_index("row")["label"]
    groups = table.long.drop_duplicates("row").set_index("row")["row_group"]
    scores = table.complete()
    diagrams = {}
    for group in dict.fromkeys(groups):
        ranked = scores[[groups[row] == group for row in scores.index]]
        if len(ranked) < 3 or ranked.shape[1] < 3:
            continue
        # ones on the diagonal; p symmetric
        p = pd.DataFrame(1.0, index=labels[ranked.index], columns=labels[ranked.index])
        for pair in compared[compared["rows"] == (group or "main")].itertuples():
            a, b = labels[pair.a], labels[pair.b]
            p.loc[a, b] = p.loc[b, a] = pair.p_holm
        ranks = stats.mean_ranks(ranked).set_axis(p.index)
        seeds = "one seed" if table.seeds == 1 else f"{table.seeds} seeds"
        caption = (
            f"Mean ranks over {ranked.shape[1]} tasks ({seeds}), 1 is best; bars join rows that "
            "two-sided Wilcoxon tests with Holm's correction do not tell apart at 0.05."
        )
        least = 2.0 ** (1 - ranked.shape[1]) * len(ranked) * (len(ranked) - 1) / 2
        if least > 0.05:
            caption += " So few tasks cannot tell any two of so many rows apart."
        stem = f"{table.name}_ranks{'_' + group if group else ''}"
        diagrams[stem] = (_diagram(ranks, p), caption)
    return diagrams


def _diagram(ranks: pd.Series, p: pd.DataFrame) -> Figure:
    import scikit_posthocs  # slow to import, and only needed with complete rows

    figure, axes = plt.subplots(figsize=(WIDTH, 0.75 + 0.11 * len(ranks)), layout="constrained")
    axes.grid(False)
    scikit_posthocs.critical_difference_diagram(
        ranks,
        p,
        ax=axes,
        label_props={"size": 6.5},
        marker_props={"s": 10},
        elbow_props={"linewidth": 0.8},
        text_h_margin=0.04,
        label_fmt_left="{label} ({rank:.1f})",
        label_fmt_right="({rank:.1f}) {label}",
        crossbar_props={"color": "0.35", "marker": None, "linewidth": 1.5},
        color_palette=dict.fromkeys(ranks.index, "0.2"),
    )
    axes.tick_params(labelsize=6.5)
    return figure


def save(figure: Figure, stem: str, out: Path) -> list[Path]:
    """Write a figure as PDF and PNG, whole or not at all; returns the paths."""
    paths = []
    for suffix in ("pdf", "png"):
        path = out / f"{stem}.{suffix}"
        extra: dict[str, Any] = {"metadata": {"CreationDate": None}} if suffix == "pdf" else {}
        with replacing(path) as draft:
            figure.savefig(draft, format=suffix, dpi=200, **extra)
        paths.append(path)
    return paths


def svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    buffer = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
