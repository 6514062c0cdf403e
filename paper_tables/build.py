"""Build every table and figure from the records: python -m paper_tables.build [--table 2].

    python -m paper_tables.build                            all tables of all profiles (make tables)
    python -m paper_tables.build --table 2 --view compare   one, shown in the terminal too
    python -m paper_tables.build --why table2 RLRR CIFAR-100

OUT/    <table>[_printed|_compare].{tex,md,csv}, figures as PDF and PNG, all.tex with everything
RESULTS/<table>.csv          one line a run
        <table>_cells.csv    one line a cell: ours, spread, seeds, printed, delta, rank, runs
        <table>_wide.csv     one line a row and source, one column a cell
        pairs.csv, optimism.csv, costs.csv     see results/README.md
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich.console import Console

from benchmarks.config import RunConfig
from benchmarks.record import write_atomically
from methods.registry import InputError, nearest

from . import latex, specs, stats, views
from .records import Records, is_dirty, scan
from .specs import Cell, Profile
from .table import Table, build, printed_numbers

__all__ = ["build", "printed_numbers"]
ROOT = Path(__file__).resolve().parent.parent
SUFFIX = {"ours": "", "printed": "_printed", "compare": "_compare"}


def tables(
    names: Iterable[str], profile: Profile, records: Records, rule: str = "recipe"
) -> list[Table]:
    """Whole tables by spec name ("table4a")."""
    plans = [specs.plan(specs.load(name), profile, protocol=rule) for name in names]
    return [build(cells, records, profile, rule) for cells in plans]


def write(built: Table, out: Path) -> tuple[list[Path], list[str]]:
    """Write every view as CSV, Markdown and LaTeX, and the figures; returns the paths and the
    LaTeX floats of the figures."""
    from . import figures  # matplotlib is slow to import

    out.mkdir(parents=True, exist_ok=True)
    paths, floats = [], []
    for view in views.available(built):
        sheet, stem = views.sheet(built, view), built.spec.name + SUFFIX[view]
        for suffix, text in (
            ("csv", views.csv(sheet)),
            ("md", views.markdown(sheet)),
            ("tex", latex.table(sheet)),
        ):
            paths.append(out / f"{stem}.{suffix}")
            write_atomically(paths[-1], text)
    drawn, name = figures.all_of(built), built.spec.name
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
    name = built.spec.name
    frames = {name: built.records, f"{name}_cells": built.long, f"{name}_wide": wide(built)}
    paths = []
    for stem, frame in frames.items():
        paths.append(folder / f"{stem}.csv")
        write_atomically(paths[-1], frame.to_csv(index=False, float_format="%.6g"))
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


def write_analyses(built: list[Table], records: Records, folder: Path) -> list[Path]:
    """Write what goes over several tables: pairs, optimism, costs; returns the paths."""
    scored = [table for table in built if table.rule == "best_test"]
    if not scored:  # the runs that were scored on the test set are others than those of the tables
        names = [table.spec.name for table in built]
        scored = tables(names, built[0].profile, records, "best_test")
    frames = {
        "pairs": pd.concat([stats.pairs(table) for table in built]),
        "optimism": pd.concat([stats.optimism(table, records) for table in scored]),
        "costs": pd.concat([stats.costs(table, records) for table in built]),
    }
    paths = []
    for stem, frame in frames.items():
        paths.append(folder / f"{stem}.csv")
        write_atomically(paths[-1], frame.to_csv(index=False, float_format="%.6g"))
    return paths


def summary(built: Table) -> str:
    """One line: how much of the table is there."""
    cells = built.long[built.long["kind"] == "task"]
    full = int(cells["ours"].notna().sum())
    parts = [f"{built.spec.name:8} {full} of {len(cells)} cells"]
    for key, what in (("failed", "runs failed"), ("dirty", "runs of code not committed")):
        count = int(cells[key].sum())
        parts += [f"{count} {what}"] if count else []
    return ", ".join(parts)


def tell(records: Records, console: Console, quiet: bool = False) -> None:
    """Name every record that is kept apart or marked, in a line each.

    quiet: those of code not committed only counted, for where every run may be one.
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


def why(name: str, row: str, column: str, profile: Profile, records: Records, rule: str) -> str:
    """Where a cell comes from: its number, runs, rule, recipe and source.

    Raises:
        ConfigError: an unknown table, row or column.
    """
    known = [spec for names in specs.TABLES.values() for spec in names]
    if name not in known:
        raise specs.ConfigError(f"unknown table {name!r}; {nearest(name, known)}")
    cells = specs.plan(specs.load(name), profile, rows=[row], protocol=rule)
    built = build(cells, records, profile, rule)
    cells, long = built.cells, built.long
    asked = column.lower()
    found = long[(long["heading"].str.lower() == asked) | (long["column"].str.lower() == asked)]
    if found.empty:
        names = list(dict.fromkeys([*long["heading"], *long["column"]]))
        raise specs.ConfigError(f"unknown column {column!r} of {name}; {nearest(column, names)}")
    cell = found.iloc[0]
    digits = 1 if cell["kind"] in ("task", "group_mean", "mean") else 2
    lines = [
        f"{built.title}",
        f"{cell['label']}, {cell['heading']} ({cell['column']}), profile {profile.name}",
        f"ours     {_number(cell['ours'], digits)}"
        + (f" ± {cell['std']:.2f}" if cell["std"] == cell["std"] else ""),
        f"printed  {_number(cell['printed'], digits)}"
        + (f"  {views.FLAG} {cell['flag']}" if cell["flag"] else ""),
        f"rule     {rule}: {built.notes[-1].removeprefix('Ours: ')}",
    ]
    own = cells
    if cell["kind"] == "task":
        own = [c for c in cells if c.task.name == cell["column"]]
    elif cell["kind"] == "group_mean":
        own = [c for c in cells if c.task.group == cell["column_group"]]
    lines += [f"source   {source}" for source in dict.fromkeys(c.source for c in own) if source]
    if cell["kind"] == "task" and own[0].config:
        config = own[0].config.to_dict()
        lines += [f"backbone {config['backbone']}", f"method   {config['method']}"]
        lines += [f"options  {config['options'] or 'defaults'}"]
        lines += ["recipe   " + ", ".join(f"{k} {v}" for k, v in config["recipe"].items())]
    if cell["kind"] == "task":
        lines += [f"trial    {_trial(trial, own[0], records)}" for trial in own[0].trials]
    lines += [f"run      {_run(c, records)}" for c in own]
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return views.MISSING if value != value else views.rounded(value, digits)


def _trial(trial: RunConfig, cell: Cell, records: Records) -> str:
    record = records.get(trial.run_id) or {"status": "no record"}
    found = record.get("error") or record["status"]
    if record["status"] == "done":
        found = f"{record['top1_val']:.2f} on validation images"
    won = cell.config and cell.final(trial) == cell.config
    return f"{trial.run_id}  {trial.name.partition(': ')[2]}: {found}{', chosen' if won else ''}"


def _run(cell: Cell, records: Records) -> str:
    if cell.config is None:
        return f"{cell.task.label} seed {cell.seed}: {cell.reason}"
    run_id = cell.config.run_id
    text = f"{run_id}  {cell.task.label} seed {cell.seed}"
    if run_id in records.failed:
        return f"{text}: failed: {records.failed[run_id]['error']}"
    if run_id not in records.done:
        apart = records.apart.get(f"{run_id}.json")
        return f"{text}: {'kept apart: ' + apart if apart else 'no record'}"
    record = records.done[run_id]
    best = record.get("top1_best_test")
    text += f": last {record['top1_last']:.2f}"
    text += f", best on test {best:.2f}" if best is not None else ""
    commit = (record.get("git_commit") or "unknown")[:12]
    dirty = f" {views.DIRTY} uncommitted changes" if is_dirty(record) else ""
    return f"{text}, {record.get('ended', '')}, {record.get('device', '')}, commit {commit}{dirty}"


def main(argv: list[str] | None = None) -> int:
    kind = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("python -m paper_tables.build", None, __doc__, formatter_class=kind)
    p.add_argument("--table", choices=sorted(specs.TABLES), help="default: all, not shown here")
    p.add_argument("--view", choices=views.VIEWS, default="compare", help="what is shown here")
    p.add_argument("--profile", help="default: all of them; with --why, paper")
    p.add_argument("--protocol", default="recipe", choices=specs.PROTOCOLS)
    p.add_argument("--results", type=Path, metavar="DIR", help="default results/<profile>")
    p.add_argument("--out", type=Path, metavar="DIR", help="default paper_tables/out/<profile>")
    p.add_argument("--committed", action="store_true", help="leave out runs marked †")
    p.add_argument("--why", nargs=3, metavar=("TABLE", "ROW", "COLUMN"), help="trace a cell")
    arguments = p.parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        if arguments.why:
            profile = specs.profile(arguments.profile or "paper")
            records = _records(arguments, profile)
            text = why(*arguments.why, profile, records, arguments.protocol)
            console.print(text, markup=False, soft_wrap=True)
            return 0
        if not arguments.profile and (arguments.results or arguments.out):
            raise specs.ConfigError("--results and --out need --profile: one folder, one profile")
        for name in [arguments.profile] if arguments.profile else specs.profiles():
            _build(arguments, specs.profile(name), console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _records(arguments: argparse.Namespace, profile: Profile) -> Records:
    records = scan(arguments.results or ROOT / "results" / profile.name)
    return records.without_dirty() if arguments.committed else records


def _build(arguments: argparse.Namespace, profile: Profile, console: Console) -> None:
    """Build one profile's tables and say what is there and what is not."""
    records = _records(arguments, profile)
    out = arguments.out or ROOT / "paper_tables" / "out" / profile.name
    chosen = specs.TABLES if arguments.table is None else {arguments.table: ()}
    names = [name for table in chosen for name in specs.TABLES[table]]
    built = tables(names, profile, records, arguments.protocol)
    console.print(
        f"[bold]{profile.name}[/bold]  {len(records.done)} runs in {records.folder}", soft_wrap=True
    )
    tell(records, console)
    floats: list[str] = []
    for table in built:
        floats += write(table, out)[1]
        write_results(table, records.folder)
        console.print(summary(table), markup=False)
        if arguments.table:
            view = arguments.view if arguments.view in views.available(table) else "ours"
            views.show(views.sheet(table, view), console)
    if arguments.table is None:
        write_analyses(built, records, records.folder)
        inputs = [f"{t.spec.name}{SUFFIX[v]}" for t in built for v in views.available(t)]
        write_atomically(out / "all.tex", latex.document(inputs, floats))
    console.print(f"in {out} and {records.folder}\n", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
