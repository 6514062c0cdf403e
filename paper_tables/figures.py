"""Figures from a built table, as PDF and PNG, sized for one column of a paper."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

from .build import Built

COLUMN = (3.4, 2.7)  # inches: the width of a column of a two-column paper
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
}
BLUE, ORANGE = "#0072B2", "#D55E00"  # of the Okabe-Ito palette, safe for the colour-blind


def accuracy_against_parameters(built: Built, out: Path) -> list[Path]:
    """Mean accuracy against trained parameters, a point a row; nothing if no row is complete."""
    long = built.long
    means = long[long["column"] == "mean"].set_index("label")
    params = long[long["column"] == "params_m"].set_index("label")["ours"]
    points = [
        (label, params[label], means.loc[label, "ours"])
        for label in means.index
        if means.loc[label, "ours"] == means.loc[label, "ours"] and params[label] > 0
    ]
    if not points:
        return []
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=COLUMN, layout="constrained")
        taken: list[tuple[float, float]] = []
        axes.set_xscale("log")
        for label, x, y in sorted(points, key=lambda point: -point[2]):
            colour = ORANGE if label.startswith("RLRR") else BLUE
            axes.plot(x, y, "o", color=colour, markersize=4)
        low, high = axes.get_ylim()
        for label, x, y in sorted(points, key=lambda point: -point[2]):
            # labels that would lie over each other move down
            height = y
            while any(abs(height - b) < (high - low) / 16 and 1 / 8 < a / x < 8 for a, b in taken):
                height -= (high - low) / 40
            taken.append((x, height))
            axes.annotate(label, (x, height), xytext=(4, -2), textcoords="offset points", size=6.5)
        axes.set_xlabel("trained parameters (millions)")
        axes.set_ylabel("mean top-1 accuracy (%)")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.18)
        paths = []
        for suffix in ("pdf", "png"):
            path = out / f"{built.spec.name}_parameters.{suffix}"
            draft = path.with_name(f".{path.name}")
            figure.savefig(draft, format=suffix, dpi=200)
            os.replace(draft, path)
            paths.append(path)
        plt.close(figure)
    return paths
