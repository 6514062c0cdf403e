"""A table as text, in three views, and as Markdown, CSV or in the terminal.

ours      our numbers, as the paper would print them
printed   the paper's numbers, as they stand there
compare   ours, their spread over seeds, printed, delta, and how many seeds
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from .select import rounded, rows_by_rule
from .table import PARAMS, Table

VIEWS = ("ours", "printed", "compare")
MISSING = "–"
UNNAMED = ("all", "fgvc")  # groups whose name says nothing above their columns
DIRTY, FLAG, MIXED, OUTDATED = "†", "‡", "§", "¶"
SEEDS = ("all", "Seeds")
BEST = {1: "best", 2: "second"}


@dataclass
class Sheet:
    """A view as text. marks: "best", "second" or "", of the same shape; breaks: lines after which
    another group of rows begins; `compare` has two index levels (row, what), the others one."""

    table: Table
    view: str
    text: pd.DataFrame
    marks: pd.DataFrame
    breaks: list[int]
    notes: list[str]

    @property
    def title(self) -> str:
        return self.table.title


def available(table: Table) -> tuple[str, ...]:
    """The views that there are: the demo has no printed numbers, and one seed has no spread."""
    if table.printed:
        return VIEWS
    return ("ours", "compare") if table.seeds > 1 else ("ours",)


def sheet(table: Table, view: str) -> Sheet:
    """A view of the table as text with marks."""
    shown = _shown(table, view)
    columns = _columns(shown)
    cells = numbers(table, view)
    labels = list(dict.fromkeys(table.long["label"]))
    groups = dict(zip(table.long["label"], table.long["row_group"], strict=True))
    digits = {column: _digits(shown, column) for column in columns}
    what = _lines(table, view)
    index, text, marks, breaks = [], [], [], []
    for label in labels:
        of_row = [cells[label, *column] for column in columns]
        for name in what:
            line = [_text(c, name, digits[c.column_group, c.heading]) for c in of_row]
            line += [_seeds(of_row, name)] if view == "compare" else []
            index.append((label, name))
            text.append(line)
            marks.append([_mark(c, name) for c in of_row] + [""] * (len(line) - len(of_row)))
        following = labels[labels.index(label) + 1 :][:1]
        if following and groups[following[0]] != groups[label]:
            breaks.append(len(text))
    names = pd.MultiIndex.from_tuples(columns + ([SEEDS] if view == "compare" else []))
    keys = pd.MultiIndex.from_tuples(index) if view == "compare" else pd.Index(labels)
    frame = pd.DataFrame(text, index=keys, columns=names)
    return Sheet(
        table=table,
        view=view,
        text=frame,
        marks=pd.DataFrame(marks, index=keys, columns=names),
        breaks=breaks,
        notes=_notes(table, view, shown),
    )


def numbers(table: Table, view: str = "compare") -> dict[tuple[str, str, str], Any]:
    """The cells of a view, as lines of the long table, by (label, column group, heading)."""
    shown = _shown(table, view)
    return {(c.label, c.column_group, c.heading): c for c in shown.itertuples()}


def _shown(table: Table, view: str) -> pd.DataFrame:
    """The lines of the long table that the view shows."""
    kinds = ["group_mean", "mean", "params"]
    if table.spec.columns == "tasks" or not (table.long["kind"] == "group_mean").any():
        kinds.append("task")
    shown = table.long[table.long["kind"].isin(kinds)]
    shown = _marked_by_tasks(shown, table.long[table.long["kind"] == "task"])
    if view == "printed":  # a column that the paper does not have is not missing
        shown = shown[shown.groupby("column")["printed"].transform("count") > 0]
    if table.spec.columns == "groups":
        tasks = table.long[table.long["kind"] == "task"]
        sizes = tasks.groupby("column_group")["column"].nunique()
        of_groups = shown["kind"] == "group_mean"
        names = shown["column_group"].map(lambda g: f"{g.capitalize()} ({sizes.get(g)})")
        shown = shown.assign(
            heading=shown["heading"].mask(of_groups, names),
            column_group=shown["column_group"].mask(of_groups, "all"),
        )
    return shown


def _marked_by_tasks(shown: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """The means with the marks of the tasks behind them."""
    shown = shown.copy()
    group_means, means = shown["kind"] == "group_mean", shown["kind"] == "mean"
    for key in ("dirty", "outdated"):
        of_row = tasks.groupby("row")[key].sum()
        of_group = tasks.groupby(["row", "column_group"])[key].sum()
        pairs = zip(shown["row"], shown["column_group"], strict=True)
        counts = pd.Series([of_group.get(pair) for pair in pairs], index=shown.index)
        shown[key] = shown[key].mask(group_means, counts).mask(means, shown["row"].map(of_row))
    return shown


def _columns(shown: pd.DataFrame) -> list[tuple[str, str]]:
    """(group, heading) in order, a group's mean at its end."""
    kinds = shown.drop_duplicates(["column_group", "heading"])
    groups = list(dict.fromkeys(kinds["column_group"]))
    order = sorted(
        kinds.itertuples(), key=lambda c: (groups.index(c.column_group), c.kind == "group_mean")
    )
    if kinds["column_group"].nunique() == 1:
        order = list(kinds.itertuples())
    return [(c.column_group, c.heading) for c in order]


def _digits(shown: pd.DataFrame, column: tuple[str, str]) -> int:
    """One digit; for parameters two as in the paper, or four where two print 0.00 (the demo)."""
    if column[1] != PARAMS:
        return 1
    return 2 if (shown.loc[shown["heading"] == PARAMS, "ours"].dropna() >= 0.02).all() else 4


def _lines(table: Table, view: str) -> list[str]:
    if view != "compare":
        return [view]
    names = ["ours", "std", "printed", "delta"] if table.printed else ["ours", "std"]
    return [name for name in names if name != "std" or table.seeds > 1]


def _text(cell: Any, name: str, digits: int) -> str:
    """A cell of a line; a dash where ours is missing, nothing where the paper prints no number."""
    value = getattr(cell, name)
    if value != value:
        return MISSING if name == "ours" else ""
    text = rounded(value, digits)
    if name == "delta":
        text = text.lstrip("-") if float(text) == 0 else f"{float(text):+.{digits}f}"
    if name == "ours":
        text += DIRTY * (cell.dirty > 0) + MIXED * bool(cell.mixed) + OUTDATED * (cell.outdated > 0)
    if name == "printed" and cell.flag:
        text += FLAG
    return text


def _mark(cell: Any, name: str) -> str:
    ranks = {"ours": cell.rank, "printed": cell.printed_rank}
    return BEST.get(ranks.get(name, 0), "")


def _seeds(cells: list, name: str) -> str:
    """How many seeds the row's cells have, and should have; only on the row's first line."""
    if name != "ours":
        return ""
    cells = [cell for cell in cells if cell.wanted == cell.wanted]
    low, high = min(c.seeds for c in cells), max(c.seeds for c in cells)
    wanted = max(c.wanted for c in cells)
    done = f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"
    return done if low == wanted else f"{done} of {wanted:.0f}"


def _notes(table: Table, view: str, shown: pd.DataFrame) -> list[str]:
    notes = list(table.notes)
    if view == "printed":
        notes = notes[:-1]  # the last one is about ours
    else:
        notes += made_from(table)
        tasks = table.long[table.long["kind"] == "task"]
        missing, failed = int(tasks["ours"].isna().sum()), int(tasks["failed"].sum())
        if missing:
            runs = f", {failed} runs failed" if failed else ""
            notes.append(f"{MISSING}: {missing} of {len(tasks)} cells are not complete{runs}.")
        if (tasks["dirty"] > 0).any():
            notes.append(f"{DIRTY}: a run of it is of code not committed.")
        notes += _mixed(shown)
        if (tasks["outdated"] > 0).any():
            rows = ", ".join(tasks[tasks["outdated"] > 0]["label"].unique())
            notes.append(
                f"{OUTDATED}: made with a method file or inputs that have changed ({rows})."
            )
    if view != "ours" and table.printed:
        there = set(table.long.loc[table.long["printed"].notna(), "label"])
        rules = {c.row.label: c.row.printed_rule for c in table.cells if c.row.label in there}
        how = rows_by_rule(rules.items())
        notes.append(f"Printed: the paper's numbers, as they stand there, selected by: {how}.")
        if view == "compare":
            notes += _other_rules(table)
        if (shown["flag"] != "").any():
            notes.append(f"{FLAG}: not the mean of the printed cells.")
    return notes


def made_from(table: Table) -> list[str]:
    """A note on what our numbers were made from: recipes, weights, pixels, precision."""
    runs = table.runs
    if runs.empty:
        return []
    recipes = sorted({source.partition(":")[0] for source in runs["recipe_source"]})
    names = ", ".join(word.removeprefix("recipe ") for word in recipes)
    parts = [f"recipe{'s' * (len(recipes) > 1)} {names}"]
    pairs = runs[["backbone", "weights_fingerprint"]].drop_duplicates().itertuples(index=False)
    parts.append("weights " + ", ".join(f"{tag} ({str(mark)[:8]})" for tag, mark in pairs))
    for key, what in (("data_variant", "{} images"), ("precision", "{}"), ("device", "on {}")):
        values = runs[key].fillna("unknown").value_counts()
        some = " and ".join(
            f"{value} ({count} of {len(runs)} runs)" if len(values) > 1 else str(value)
            for value, count in values.items()
        )
        parts.append(what.format(some))
    return [f"Made from: {'; '.join(parts)}."]


def _other_rules(table: Table) -> list[str]:
    """Warnings where ours and printed, or printed rows among themselves, differ in the rule."""
    printed = set(table.long.loc[table.long["printed"].notna(), "label"])
    rows = {cell.row.label: cell for cell in table.cells if cell.row.label in printed}
    known = {label: cell for label, cell in rows.items() if cell.row.printed_rule != "unknown"}
    other = [label for label, cell in known.items() if cell.rule != cell.row.printed_rule]
    notes = []
    if other:
        which = "all rows" if len(other) == len(rows) else ", ".join(other)
        notes.append(
            f"Ours and printed were selected by different rules in {which}; "
            "the protocol printed compares by the same."
        )
    if len({cell.row.printed_rule for cell in known.values()}) > 1:
        notes.append("The printed rows were selected by different rules among themselves.")
    return notes


def _mixed(shown: pd.DataFrame) -> list[str]:
    """A note that names the cells whose runs differ in what they should have in common."""
    cells = shown[(shown["mixed"] != "") & shown["ours"].notna()]
    if cells.empty:
        return []
    rows = []
    for label, of_row in cells.groupby("label", sort=False):
        what = dict.fromkeys(", ".join(of_row["mixed"]).split(", "))
        rows.append(f"{label} in {', '.join(what)}")
    return [f"{MIXED}: averages runs that differ: {'; '.join(rows)}."]


def flat(sheet: Sheet) -> pd.DataFrame:
    """The text with one heading a column and the row's label as columns of its own."""
    frame = sheet.text.copy()
    frame.columns = [
        f"{heading} ({group})" if heading == "Mean" else heading for group, heading in frame.columns
    ]
    names = ["Method", ""] if frame.index.nlevels == 2 else ["Method"]
    frame.index = frame.index.set_names(names)
    return frame.reset_index()


def csv(sheet: Sheet) -> str:
    """The view as CSV, as printed but without marks; what is missing is empty."""
    plain = flat(sheet).rename(columns={"": "what"})
    plain = plain.replace(f"[{DIRTY}{FLAG}{MIXED}{OUTDATED}]", "", regex=True).replace(MISSING, "")
    return plain.to_csv(index=False)


def markdown(sheet: Sheet) -> str:
    """The view as Markdown, best bold and second best underlined."""
    marked = sheet.text.copy()
    for i, j in zip(*(sheet.marks != "").to_numpy().nonzero(), strict=True):
        text, best = sheet.text.iat[i, j], sheet.marks.iat[i, j] == "best"
        marked.iat[i, j] = f"**{text}**" if best else f"<u>{text}</u>"
    frame = flat(Sheet(sheet.table, sheet.view, marked, sheet.marks, sheet.breaks, sheet.notes))
    if sheet.text.index.nlevels == 2:
        frame["Method"] = frame["Method"].where(~frame["Method"].duplicated(), "")
    body = frame.to_markdown(index=False, disable_numparse=True)
    return f"# {sheet.title}\n\n{body}\n\n{' '.join(sheet.notes)}\n"


def show(sheet: Sheet, console: Console) -> None:
    """Print the view: best bold, second best underlined; printed numbers dim."""
    text = sheet.text
    width = sum(max(len(heading), 5) + 2 for _, heading in text.columns) + 24
    narrow = width > console.width  # then only the means
    keep = [j for j, (_, heading) in enumerate(text.columns) if not narrow or _summary(heading)]
    grid = Grid(title=sheet.title, box=None, pad_edge=False, padding=(0, 1))
    grid.add_column("", no_wrap=True)
    above = ""
    for j in keep:
        group, heading = text.columns[j]
        where = "" if group in UNNAMED or (group == above and not narrow) else group
        grid.add_column(f"[dim]{where}[/dim]\n{heading}", justify="right", no_wrap=True)
        above = group
    styles = {"best": "bold", "second": "underline"}
    for i, key in enumerate(text.index):
        label, what = key if text.index.nlevels == 2 else (key, sheet.view)
        values = []
        for j in keep:
            style = styles.get(sheet.marks.iat[i, j])
            value = text.iat[i, j]
            values.append(f"[{style}]{value}[/{style}]" if style else value)
        first = what in ("ours", sheet.view)
        grid.add_row(label if first else f"  {what}", *values, style=None if first else "dim")
        if i + 1 in sheet.breaks:
            grid.add_section()
    console.print()
    console.print(grid)
    console.print(" ".join(sheet.notes), style="dim", markup=False)
    if narrow:
        console.print("The terminal is narrow: every column is in the files.", style="dim")


def _summary(heading: str) -> bool:
    return heading.startswith("Mean") or heading in (PARAMS, SEEDS[1])
