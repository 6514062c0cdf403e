"""Build tables from records: python -m paper_tables.build [--table 2] [--profile demo].

Writes OUT/<table>.csv (long: ours, printed, every cell), .md, .tex (booktabs) and a figure, and
RESULTS/<table>.csv (one line a run). A cell without all of its runs is shown as missing, and so is
a mean over it.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.record import Results, write_atomically
from methods.registry import InputError

from . import select, specs
from .specs import Cell, Profile, Spec

PRINTED = Path(__file__).with_name("printed")
MISSING = "–"
PARAMS = "Params. (M)"
SUMMARY = ("Mean", PARAMS)
UNNAMED = ("all", "fgvc")  # groups whose name says nothing above their columns
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Built:
    """A table with its numbers.

    wide: one line a row and source ("ours", "printed"), one column a task, mean and parameter
    count, columns in (group, heading) pairs; long: the same, one line a cell, with seeds and runs;
    records: one line a run.
    """

    spec: Spec
    profile: Profile
    rule: str
    wide: pd.DataFrame
    long: pd.DataFrame
    records: pd.DataFrame
    title: str
    note: str


def build(cells: list[Cell], results: Results, profile: Profile, rule: str = "recipe") -> Built:
    """The table of these cells (of one spec) from the records."""
    spec = cells[0].spec
    wanted = {cell.config.run_id for cell in cells if cell.config}
    found = {run_id: results.read(run_id) for run_id in wanted}
    done = {i: record for i, record in found.items() if record and record["status"] == "done"}
    printed = printed_numbers(spec) if spec.benchmark == cells[0].task.benchmark else {}
    long = pd.DataFrame(
        [line for row in _rows(cells) for line in _row_lines(row, done, printed, rule)]
    )
    backbones = sorted({cell.config.backbone for cell in cells if cell.config})
    title, notes = spec.title, [spec.note, f"Ours: {select.LABELS[rule]}."]
    if profile.note:
        title = f"{title.split(':')[0]}, {profile.name} profile: {', '.join(backbones)}"
        notes[0] = profile.note
    seeds = len({cell.seed for cell in cells})
    notes.append(f"Mean of {seeds} seeds." if seeds > 1 else "One seed.")
    if printed:
        notes.append("Printed: the paper's numbers, as they stand there.")
    return Built(
        spec=spec,
        profile=profile,
        rule=rule,
        wide=_wide(long, bool(printed), spec),
        long=long,
        records=_records(cells, done),
        title=title,
        note=" ".join(note for note in notes if note),
    )


def printed_numbers(spec: Spec) -> dict[tuple[str, str], float]:
    """The paper's cells of a table by (row, column); empty if there are none."""
    path = PRINTED / f"{spec.name}.csv"
    if not path.is_file():
        return {}
    frame = pd.read_csv(path)
    return {(row.row, row.column): row.value for row in frame.itertuples()}


def _rows(cells: list[Cell]) -> list[list[Cell]]:
    """The cells of each row, rows in order."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row.key, []).append(cell)
    return list(rows.values())


def _row_lines(
    cells: list[Cell], done: dict[str, Any], printed: dict[tuple[str, str], float], rule: str
) -> list[dict[str, Any]]:
    """A row's lines of the long table: its tasks, its means, its parameters in millions."""
    row, lines = cells[0].row, []

    def line(column: str, group: str, heading: str, value: float, **more: Any) -> None:
        paper = printed.get((row.key, column), math.nan)
        lines.append(
            {
                "row": row.key,
                "label": row.label,
                "column": column,
                "group": group,
                "heading": heading,
                "ours": value,
                "printed": paper,
                **more,
            }
        )

    by_task: dict[str, list[Cell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task.name, []).append(cell)
    values: dict[str, list[float]] = {}
    for name, own in by_task.items():
        task = own[0].task
        ids = [cell.config.run_id for cell in own if cell.config]
        score = select.score(ids, done, rule)
        values.setdefault(task.group, []).append(score.value)
        line(
            name,
            task.group,
            task.label,
            score.value,
            std=score.std,
            seeds=score.seeds,
            runs=" ".join(score.runs),
        )
    groups = list(values)
    if len(groups) > 1:
        for group in groups:
            line(f"mean_{group}", group, "Mean", _mean(values[group]))
    everything = [value for group in groups for value in values[group]]
    line("mean", "all", "Mean", _mean(everything))
    line("params_m", "all", PARAMS, _millions(cells, done))
    return lines


def _mean(values: list[float]) -> float:
    """The mean, NaN if one of them is: a mean over an incomplete row is not printed."""
    return sum(values) / len(values)


def _millions(cells: list[Cell], done: dict[str, Any]) -> float:
    """Trainable parameters in millions by the row's convention, averaged over its tasks."""
    key = {"trainable": "params_total", "method": "params_peft"}[cells[0].row.params]
    by_task = {
        cell.task.name: done[cell.config.run_id][key]
        for cell in cells
        if cell.config and cell.config.run_id in done
    }
    if len(by_task) < len({cell.task.name for cell in cells}):
        return math.nan
    return sum(by_task.values()) / len(by_task) / 1e6


def _wide(long: pd.DataFrame, with_printed: bool, spec: Spec) -> pd.DataFrame:
    """One line a row and source, columns (group, heading) with each group's mean at its end."""
    sources = ["ours", "printed"] if with_printed else ["ours"]
    kept = long
    if spec.columns == "groups":
        kept = long[long["heading"].isin(SUMMARY)]
    order = []
    for group in kept["group"].unique():
        own = kept[kept["group"] == group]
        headings = list(dict.fromkeys(own["heading"]))
        headings.sort(key=lambda heading: heading in SUMMARY)
        order += [(group, heading) for heading in headings]
    index = [(label, source) for label in kept["label"].unique() for source in sources]
    wide = pd.DataFrame(
        math.nan,
        index=pd.MultiIndex.from_tuples(index, names=["Method", ""]),
        columns=pd.MultiIndex.from_tuples(order),
    )
    for cell in kept.itertuples():
        for source in sources:
            wide.loc[(cell.label, source), (cell.group, cell.heading)] = getattr(cell, source)
    return wide if with_printed else wide.droplevel(1)


def _records(cells: list[Cell], done: dict[str, Any]) -> pd.DataFrame:
    """One line a finished run: row, config and record flattened; curves stay in the JSON."""
    lines = []
    for cell in cells:
        record = done.get(cell.config.run_id) if cell.config else None
        if record is None:
            continue
        config = dict(record["config"])
        recipe = config.pop("recipe")
        config["options"] = json.dumps(config["options"], sort_keys=True)
        rest = {k: v for k, v in record.items() if k not in ("config", "curve", "schema")}
        rest = {k: json.dumps(v) if isinstance(v, list) else v for k, v in rest.items()}
        head = {"table": cell.spec.name, "row": cell.row.key, "run_id": rest.pop("run_id")}
        recipe = {f"recipe_{key}": value for key, value in recipe.items()}
        lines.append(head | config | rest | recipe | {"recipe_source": cell.source})
    return pd.DataFrame(lines)


def formatted(built: Built) -> pd.DataFrame:
    """The wide table as text: one decimal, parameters with two, a dash for what is missing."""
    text = built.wide.copy().astype(object)
    for column in text.columns:
        digits = 1
        if column[1] == PARAMS:  # as the paper; more where that would print 0.00
            digits = 2 if (built.wide[column].dropna() >= 0.02).all() else 4
        text[column] = [
            MISSING if pd.isna(value) else f"{value:.{digits}f}" for value in built.wide[column]
        ]
    return text


def write(built: Built, out: Path) -> list[Path]:
    """Write the table as CSV, Markdown and LaTeX and its figure; returns the paths."""
    from . import figures, latex

    out.mkdir(parents=True, exist_ok=True)
    name = built.spec.name
    text = formatted(built)
    flat = text.copy()
    flat.columns = [
        heading if group in UNNAMED else f"{heading} ({group})" if heading == "Mean" else heading
        for group, heading in text.columns
    ]
    paths = [out / f"{name}.{suffix}" for suffix in ("csv", "md", "tex")]
    write_atomically(paths[0], built.long.to_csv(index=False, float_format="%.4f"))
    markdown = flat.reset_index().to_markdown(index=False, disable_numparse=True)
    write_atomically(paths[1], f"# {built.title}\n\n{markdown}\n\n{built.note}\n")
    write_atomically(paths[2], latex.table(built, text))
    return [*paths, *figures.accuracy_against_parameters(built, out)]


def write_records(built: Built, folder: Path) -> Path:
    """Write the runs behind the table as a CSV, one line each; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{built.spec.name}.csv"
    write_atomically(path, built.records.to_csv(index=False))
    return path


def show(built: Built, console: Console) -> None:
    """Print the table in the terminal: a line a row, best of a column bold; printed ones dim."""
    text = formatted(built)
    two = isinstance(text.index, pd.MultiIndex)
    width = sum(max(len(heading), 5) + 2 for _, heading in text.columns) + 18
    narrow = width > console.width  # then only the means
    table = Table(title=built.title, box=None, pad_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    columns = [column for column in text.columns if not narrow or column[1] in SUMMARY]
    above = ""
    for group, heading in columns:
        where = "" if group in UNNAMED or (group == above and not narrow) else group
        table.add_column(f"[dim]{where}[/dim]\n{heading}", justify="right", no_wrap=True)
        above = group
    ours = built.wide.xs("ours", level=1) if two else built.wide
    best = ours.max()
    for index, line in text.iterrows():
        label, source = index if two else (index, "ours")
        values = []
        for column in columns:
            top = column[1] != PARAMS and source == "ours"
            top = top and ours.loc[label, column] == best[column]
            values.append(f"[bold]{line[column]}[/bold]" if top else line[column])
        style = "dim" if source == "printed" else None
        table.add_row(label if source == "ours" else "  printed", *values, style=style)
    console.print()
    console.print(table)
    console.print(built.note, style="dim")
    if narrow:
        console.print("The terminal is narrow: every column is in the files.", style="dim")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m paper_tables.build", description=__doc__)
    parser.add_argument("--table", choices=sorted(specs.TABLES), help="default: all")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--protocol", default="recipe", choices=specs.PROTOCOLS)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    console = Console(highlight=False)
    try:
        profile = specs.profile(arguments.profile)
        results = arguments.results or ROOT / "results" / profile.name
        out = arguments.out or ROOT / "paper_tables" / "out" / profile.name
        for table in [arguments.table] if arguments.table else specs.TABLES:
            for name in specs.TABLES[table]:
                cells = specs.plan(specs.load(name), profile, protocol=arguments.protocol)
                built = build(cells, Results(results), profile, arguments.protocol)
                show(built, console)
                for path in [*write(built, out), write_records(built, results)]:
                    console.print(f"  {path}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
