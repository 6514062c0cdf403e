"""The printed numbers as data, and our tables made from them: the paper, cell by cell."""

import math
from pathlib import Path

import pandas as pd
import printed_records
import pytest

from rlrr_bench.benchmarks import tasks
from rlrr_bench.paper_tables import output, specs, views
from rlrr_bench.paper_tables.records import scan
from rlrr_bench.paper_tables.select import rounded
from rlrr_bench.paper_tables.table import PRINTED, printed_numbers

NAMES = printed_records.NAMES

# The underlines that survive in the paper's text (its bold does not): a check of the rule on what
# is second best, in both groups of rows, with ties (99.1 twice, 99.6 twice, 85.3 below two 85.8)
UNDERLINED = {
    ("table2", "vpt-shallow", "cifar"),
    ("table2", "lora", "caltech101"),
    ("table2", "adaptformer", "oxford_flowers102"),
    ("table2", "fact", "oxford_flowers102"),
    ("table2", "arc", "oxford_iiit_pet"),
    ("table2", "adaptformer", "sun397"),
    ("table2", "fact", "mean_specialized"),
    ("table2", "arc", "mean"),
    ("table2", "rlrr-augreg", "dmlab"),
    ("table3", "rlrr-augreg", "NABirds"),
    ("table3", "rlrr-augreg", "OxfordFlowers"),
}


@pytest.fixture(scope="module")
def built(paper_records) -> dict:
    tables = output.whole(NAMES, specs.profile("paper"), scan(paper_records))
    return {table.spec.name: table for table in tables}


def test_every_printed_row_has_every_cell():
    rows = 0
    for name in NAMES:
        spec, printed = specs.spec(name), printed_numbers(specs.spec(name))
        assert {row for row, _ in printed} == set(spec.rows)
        columns = {"mean", "params_m"}
        if spec.benchmark == "vtab-1k":
            columns |= {"mean_natural", "mean_specialized", "mean_structured"}
        if spec.columns == "tasks":
            columns |= {task.name for task in tasks.select(spec.benchmark, None)}
        for row in spec.rows:
            rows += 1
            assert {column for r, column in printed if r == row} == columns, (name, row)
    assert rows == 61


def test_flags_are_exactly_the_means_that_do_not_follow_from_the_printed_cells():
    """Recomputed here from the CSV files alone, in tenths of a percent, without our table code."""
    found = {}
    for name in NAMES:
        spec = specs.spec(name)
        printed = printed_numbers(spec)
        groups: dict[str, list[str]] = {}
        for task in tasks.select(spec.benchmark, None):
            groups.setdefault(task.group, []).append(task.name)
        for row in spec.rows:
            tenths = {column: round(10 * v) for (r, column), v in printed.items() if r == row}
            total = weight = 0
            for group, members in groups.items():
                if spec.columns == "tasks":
                    own = sum(tenths[member] for member in members)
                    if len(groups) > 1:
                        found[name, row, f"mean_{group}"] = (own, len(members), tenths)
                else:
                    own = tenths[f"mean_{group}"] * len(members)
                total, weight = total + own, weight + len(members)
            found[name, row, "mean"] = (total, weight, tenths)
    assert len(found) == 61 + 14 * 3
    differs = {}
    for key, (total, n, tenths) in found.items():
        shown = (2 * total + n) // (2 * n)  # half goes up
        if shown != tenths[key[2]]:
            differs[key] = shown / 10
    flags = pd.read_csv(PRINTED / "flags.csv")
    assert differs == {(f.table, f.row, f.column): f.recomputed for f in flags.itertuples()}
    assert len(flags) == 11 and set(flags["kind"]) == {"rounding", "truncation", "inconsistent"}


@pytest.mark.parametrize("name", NAMES)
def test_ours_reproduces_the_printed_table_but_for_the_flagged_means(built, name):
    long = built[name].long
    printed = long[long["printed"].notna()]
    assert len(printed) == len(printed_numbers(built[name].spec))
    for cell in printed.itertuples():
        digits = 2 if cell.kind == "params" else 1
        expected = cell.recomputed if cell.flag else cell.printed
        assert rounded(cell.ours, digits) == rounded(expected, digits), (cell.row, cell.column)
        assert (cell.delta != 0) == bool(cell.flag), (cell.row, cell.column)
    assert (long.loc[long["kind"] == "task", ["seeds", "wanted"]] == 3).all(axis=None)


@pytest.mark.parametrize("name", NAMES)
def test_marks_are_the_papers(built, name):
    """Bold and underline on ours where the printed numbers have them, wherever no mean differs."""
    long = built[name].long
    for (_, column), own in long[long["printed"].notna()].groupby(["row_group", "column"]):
        if not (own["flag"] != "").any():
            assert own["rank"].fillna(0).tolist() == own["printed_rank"].fillna(0).tolist(), column
        if own["kind"].iloc[0] == "params":
            assert own["rank"].isna().all()
    second = long[long["printed_rank"] == 2]
    found = {(name, cell.row, cell.column) for cell in second.itertuples()}
    assert {mark for mark in UNDERLINED if mark[0] == name} <= found


def test_the_two_means_are_apart_and_named(built):
    """19 tasks: 74.5, as the paper prints; three groups: 76.8, which it does not print."""
    long = built["table2"].long
    row = long[long["row"] == "rlrr"].set_index("column")
    assert rounded(row.loc["mean", "ours"], 1) == "74.5"
    assert rounded(row.loc["mean_groups", "ours"], 1) == "76.8"
    assert math.isnan(row.loc["mean_groups", "printed"])
    assert row.loc["mean", "heading"] == "Mean of 19 tasks"
    assert row.loc["mean_groups", "heading"] == "Mean of 3 groups"
    headings = [heading for _, heading in views.sheet(built["table2"], "printed").text.columns]
    assert "Mean of 3 groups" not in headings


def test_half_goes_up():
    cells = {87.35: "87.4", 77.15: "77.2", 26.85: "26.9", -0.05: "-0.1", 90.5: "90.5", 0.04: "0.0"}
    assert {value: rounded(value, 1) for value in cells} == cells
    assert rounded(0.32677, 2) == "0.33" and rounded(85.8, 2) == "85.80"


GOLDEN = Path(__file__).with_name("golden")


@pytest.mark.parametrize("name", NAMES)
def test_golden_files(built, name):
    """The written files; after a wanted change: UPDATE_GOLDEN=1 python -m pytest, then look."""
    import os

    from rlrr_bench.paper_tables import latex

    texts = {
        f"{name}.tex": latex.table(views.sheet(built[name], "ours")),
        f"{name}_compare.md": views.markdown(views.sheet(built[name], "compare")),
        f"{name}_printed.csv": views.csv(views.sheet(built[name], "printed")),
    }
    for file, text in texts.items():
        if os.environ.get("UPDATE_GOLDEN"):
            GOLDEN.mkdir(exist_ok=True)
            (GOLDEN / file).write_text(text)
        assert text == (GOLDEN / file).read_text(), file
