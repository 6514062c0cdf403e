"""Write tables: every view as text, figures, and CSVs with the runs behind them.

OUT/    <table>[_printed|_compare].{tex,md,csv}, figures as PDF and PNG, all.tex with everything
RESULTS/<table>.csv          one line a run
        <table>_cells.csv    one line a cell: ours, spread, seeds, printed, delta, rank, runs
        <table>_wide.csv     one line a row and source, one column a cell
        pairs.csv, optimism.csv, costs.csv     see results/README.md
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from ..benchmarks.files import write_text
from . import latex, specs, stats, views
from .plan import Protocol, TableRequest
from .records import Records
from .specs import Profile
from .table import Table, build

SUFFIX = {"ours": "", "printed": "_printed", "compare": "_compare"}


def whole(
    names: Iterable[str], profile: Profile, records: Records, protocol: Protocol = "recipe"
) -> list[Table]:
    """Whole tables by spec name ("table4a")."""
    requests = [TableRequest(specs.spec(name), profile, protocol=protocol) for name in names]
    return [build(request, records) for request in requests]


def write(built: Table, out: Path) -> tuple[list[Path], list[str]]:
    """Write every view as CSV, Markdown and LaTeX, and the figures; returns the paths and the
    LaTeX floats of the figures."""
    from . import figures  # matplotlib is slow to import

    out.mkdir(parents=True, exist_ok=True)
    paths, floats = [], []
    for view in views.available(built):
        sheet, stem = views.sheet(built, view), built.name + SUFFIX[view]
        for suffix, text in (
            ("csv", views.csv(sheet)),
            ("md", views.markdown(sheet)),
            ("tex", latex.table(sheet)),
        ):
            paths.append(out / f"{stem}.{suffix}")
            write_text(paths[-1], text)
    drawn, name = figures.all_of(built), built.name
    made = (*out.glob(f"{name}_parameters.*"), *out.glob(f"{name}_ranks*"))
    for stale in made:
        if stale.stem not in drawn:  # of rows that were complete once
            stale.unlink()
    for stem, (figure, caption) in drawn.items():
        paths += figures.save(figure, stem, out)
        figures.plt.close(figure)
        caption = f"{built.title}. {caption} {' '.join(built.notes)}"
        floats.append(latex.figure(stem, caption))
    return paths, floats


def write_results(built: Table, folder: Path) -> list[Path]:
    """Write the runs and the cells behind the table as CSV; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    name = built.name
    frames = {name: built.runs, f"{name}_cells": built.long, f"{name}_wide": wide(built)}
    paths = []
    for stem, frame in frames.items():
        paths.append(folder / f"{stem}.csv")
        write_text(paths[-1], frame.to_csv(index=False, float_format="%.6g"))
    return paths


def wide(built: Table) -> pd.DataFrame:
    """One line a row and source (ours, printed), one column a cell."""
    sources = ["ours", "printed"] if built.printed else ["ours"]
    head = ["table", "row", "label", "row_group"]
    parts = []
    for source in sources:
        part = built.long.pivot(index=head, columns="column", values=source)
        part = part.reindex(columns=built.long["column"].unique())
        part.insert(0, "source", source)
        parts.append(part.reset_index())
    both = pd.concat(parts)
    order = {key: i for i, key in enumerate(built.long["row"].unique())}
    return both.sort_values("row", key=lambda rows: rows.map(order), kind="stable")


def write_analyses(
    built: list[Table], records: Records, folder: Path, suffix: str = ""
) -> list[Path]:
    """Write the CSVs that cover several tables: pairs, optimism, costs; returns the paths."""
    # runs that were scored on the test set after every epoch are not those of another protocol
    requests = [replace(table.request, protocol="best_test") for table in built]
    scored = [build(request, records) for request in requests]
    frames = {
        "pairs": pd.concat([stats.pairs(table) for table in built]),
        "optimism": pd.concat([stats.optimism(table, records) for table in scored]),
        "costs": pd.concat([stats.costs(table, records) for table in built]),
    }
    paths = []
    for stem, frame in frames.items():
        paths.append(folder / f"{stem}{suffix}.csv")
        write_text(paths[-1], frame.to_csv(index=False, float_format="%.6g"))
    return paths


SUMMED = {
    "failed": "runs failed",
    "dirty": "runs of code not committed",
    "outdated": "runs made with another method file or other inputs",
}


def summary(built: Table) -> str:
    """One line: how much of the table is there."""
    cells = built.long[built.long["kind"] == "task"]
    full = int(cells["ours"].notna().sum())
    parts = [f"{built.name:8} {full} of {len(cells)} cells"]
    for key, what in SUMMED.items():
        count = int(cells[key].sum())
        parts += [f"{count} {what}"] if count else []
    return ", ".join(parts)


def tell(records: Records, console: Console, quiet: bool = False) -> None:
    """Name every record that is kept apart or marked, in a line each.

    quiet: only count those of code not committed, as in a sweep, where every run may be one.
    """
    for name, reason in records.apart.items():
        console.print(f"kept apart  {name}: {reason}", style="yellow", markup=False, soft_wrap=True)
    dirty = records.dirty
    if quiet and dirty:
        text = f"{len(dirty)} runs are of code not committed: marked {views.DIRTY} in the tables"
        console.print(text, style="yellow")
        return
    for run_id in dirty:
        text = f"marked {views.DIRTY}    {run_id}.json: code not committed"
        console.print(text, style="yellow", markup=False)


def write_everything(built: list[Table], records: Records, out: Path) -> list[Path]:
    """Write all of a profile's tables, the CSVs that cover several, and one LaTeX document.

    The names of all files name the protocol, unless it is `recipe`.
    """
    protocol = built[0].request.protocol
    suffix = "" if protocol == "recipe" else f"-{protocol}"
    floats: list[str] = []
    paths: list[Path] = []
    for table in built:
        written, drawn = write(table, out)
        floats += drawn
        paths += [*written, *write_results(table, records.folder)]
    paths += write_analyses(built, records, records.folder, suffix)
    inputs = [f"{t.name}{SUFFIX[view]}" for t in built for view in views.available(t)]
    write_text(out / f"all{suffix}.tex", latex.document(inputs, floats))
    return paths
