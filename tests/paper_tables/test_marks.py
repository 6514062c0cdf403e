"""Marks on numbers: § averages runs that differ, ¶ was made with what has changed since."""

import contextlib
import html
import io
import re
import shutil
from pathlib import Path

import pandas as pd
import printed_records
import pytest
from rich.console import Console

from rlrr_bench import methods
from rlrr_bench.benchmarks.record import RunRecord
from rlrr_bench.launch.cli import main
from rlrr_bench.paper_tables import latex, output, views
from rlrr_bench.paper_tables.bench import made_up
from rlrr_bench.paper_tables.marks import differences
from rlrr_bench.paper_tables.plan import Cell, plan
from rlrr_bench.paper_tables.records import Records, scan
from rlrr_bench.paper_tables.table import Table, build

OLD = "0" * 12  # a method_code that no file has
NATURAL = ("cifar", "caltech101", "dtd", "oxford_flowers102", "oxford_iiit_pet", "svhn", "sun397")


def provenance(row: str, task: str, seed: int) -> dict[str, str | None]:
    """What the records of Table 2 say about their making, another thing by row."""
    now = methods.code_hash(row) if row in methods.names() else None
    same_task = {
        ("linear", "cifar", 1): {"weights_fingerprint": "other"},
        ("bias", "dtd", 2): {"data_fingerprint": "other"},
        ("lora", "cifar", 0): {"data_variant": "png"},
        ("arc", "svhn", 0): {"method_code": now},
        ("vpt-deep", "dtd", 0): {"method_code": methods.code_hash("vpt")},  # None in the others
    }
    if row == "arc" and task == "svhn" and seed:
        return {"method_code": OLD}
    if row == "ssf":
        return {"precision": "fp32" if seed == 0 else "bf16"}
    if row == "adapter":  # alike within each task
        return {"weights_fingerprint": "other" if task == "dtd" else "made-up"}
    if row == "full":
        return {"data_fingerprint": task}
    if row == "fact":
        return {"method_code": OLD}
    if row == "rlrr":
        return {"method_code": now}
    return same_task.get((row, task, seed), {})


# row -> what its runs differ in, the columns that average such runs
MEANS = ("mean_natural", "mean", "mean_groups")
EVERY = ("*",)
MIXED = {
    "linear": ("weights", ("cifar", *MEANS)),
    "adapter": ("weights", MEANS),
    "bias": ("pixels", ("dtd", *MEANS)),
    "lora": ("image format", ("cifar", *MEANS)),
    "arc": ("method code", ("svhn", *MEANS)),
    "ssf": ("precision", EVERY),
}
NOTE = (
    "§: averages runs that differ: Linear probing in weights; Adapter in weights; Bias in pixels; "
    "LoRA in image format; ARC in method code; SSF in precision."
)
OUTDATED = "¶: made with a method file or inputs that have changed (FacT-TK≤32, ARC)."


def record(cell: Cell) -> RunRecord:
    return made_up(
        cell.config, 50.0, curve=(), **provenance(cell.row.key, cell.task.name, cell.seed)
    )


@pytest.fixture(scope="module")
def folder(shared) -> Path:
    """Table 2 and a report, built by the command line from records that differ in their making."""

    def make(root: Path) -> None:
        printed_records.put(root, map(record, plan(printed_records.request("table2"))))
        words = ["--profile", "paper", "--results", str(root), "--out"]
        with (root / "told.txt").open("w") as file, contextlib.redirect_stdout(file):
            assert main(["tables", "--table", "2", *words, str(root / "out")]) == 0
            assert main(["report", *words, str(root / "report.html")]) == 0

    return shared("marks", make)


@pytest.fixture(scope="module")
def table(folder) -> Table:
    return build(printed_records.request("table2"), scan(folder))


def expected(table: Table) -> dict[tuple[str, str], str]:
    """The marks by row label and column key, in the order of the table."""
    marks = {}
    for cell in table.long[table.long["kind"] != "count"].itertuples():
        columns = MIXED.get(cell.row, ("", ()))[1]
        mixed = cell.column in columns or (columns == EVERY and cell.column != "params_m")
        averaged = cell.kind in ("task", "group_mean", "mean")
        outdated = averaged and (
            cell.row == "fact" or (cell.row == "arc" and cell.column in ("svhn", *MEANS))
        )
        marks[cell.label, cell.column] = "§" * mixed + "¶" * outdated
    return marks


def in_order(table: Table, texts: list[list[str]]) -> dict[tuple[str, str], str]:
    """The marks of a view's cells, given row by row as it shows them."""
    sheet = views.sheet(table, "ours")
    columns = {key: line.column for key, line in views.numbers(table, "ours").items()}
    labels, headings = list(sheet.text.index), list(sheet.text.columns)
    assert [len(line) for line in texts] == [len(headings)] * len(labels)
    return {
        (label, columns[label, *heading]): re.sub("[^§¶]", "", text)
        for label, line in zip(labels, texts, strict=True)
        for heading, text in zip(headings, line, strict=True)
    }


def test_the_csv_says_what_the_runs_differ_in(folder):
    cells = pd.read_csv(folder / "table2_cells.csv", keep_default_na=False)
    accuracy = cells[~cells["kind"].isin(["params", "count"])]
    for cell in accuracy.itertuples():
        what, columns = MIXED.get(cell.row, ("", ()))
        marked = cell.column in columns or columns == EVERY
        assert cell.mixed == (what if marked else ""), (cell.row, cell.column)
    tasks = cells[cells["kind"] == "task"]
    outdated = tasks["outdated"].astype(float).groupby(tasks["row"]).sum()
    assert outdated[outdated > 0].to_dict() == {"fact": 57, "arc": 2}


def test_markdown(folder, table):
    lines = [x for x in (folder / "out" / "table2.md").read_text().splitlines() if x[:1] == "|"]
    texts = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]]
    assert in_order(table, texts) == expected(table)


def test_compare_has_the_marks_on_ours_alone(table):
    sheet = views.sheet(table, "compare")
    text = sheet.text.drop(columns=[views.SEEDS])
    ours = text.xs("ours", level=1)
    assert in_order(table, ours.to_numpy().tolist()) == expected(table)
    rest = text.drop(index="ours", level=1)
    assert not rest.map(lambda cell: bool(re.search("[§¶]", cell))).any(axis=None)


@pytest.mark.slow
def test_latex(folder, table, tmp_path, compile_latex):
    text = (folder / "out" / "table2.tex").read_text()
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    rows = [line for line in body.splitlines() if "&" in line]
    texts = [
        [cell.replace("\\S", "§").replace("\\P", "¶") for cell in line.split("&")[1:]]
        for line in rows
    ]
    assert in_order(table, texts) == expected(table)
    assert r"50.0\rlap{$^{\S \P}$}" in body  # side by side, not one on the other
    names = ["table2", "table2_compare"]
    for name in names:
        shutil.copy(folder / "out" / f"{name}.tex", tmp_path)
        caption = next(
            x for x in (tmp_path / f"{name}.tex").read_text().splitlines() if "tion{" in x
        )
        assert f"$^\\S$: {NOTE[3:]}" in caption
        assert "$^\\P$: made with a method file or inputs that have changed (FacT-TK" in caption
        assert "§" not in caption and "¶" not in caption
    (tmp_path / "marked.tex").write_text(latex.document(names, []))
    compile_latex(tmp_path / "marked.tex")


def test_terminal(table):
    stream = io.StringIO()
    views.show(views.sheet(table, "ours"), Console(file=stream, width=400))
    shown = stream.getvalue().splitlines()
    labels = list(dict.fromkeys(table.long["label"]))
    lines = [next(x for x in shown if x.startswith(f"{label} ")) for label in labels]
    texts = [line.removeprefix(label).split() for label, line in zip(labels, lines, strict=True)]
    assert in_order(table, texts) == expected(table)
    assert NOTE in shown[-1] and OUTDATED in shown[-1]


def test_the_command_counts_them(folder):
    told = (folder / "told.txt").read_text()
    assert "59 runs made with another method file or other inputs" in told
    assert NOTE in " ".join(told.split()) and OUTDATED in " ".join(told.split())


def test_report(folder, table):
    page = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    section = page.partition('<section id="table2">')[2].partition("</section>")[0]
    rows = section.partition("<tbody>")[2].partition("</tbody>")[0].split("<tr")[1:]
    ours = [re.findall(r'<span class="ours [a-z]*">(.*?)</span>', row) for row in rows]
    assert in_order(table, ours) == expected(table)
    for other in re.findall(r'<span class="printed [a-z]*">(.*?)</span>', section):
        assert not re.search("[§¶]", other)
    assert NOTE in section and OUTDATED in section
    assert "runs differ in image format" in section
    assert "3 made with another method file or other inputs" in section
    record_of_fact = plan(printed_records.request("table2", rows=("fact",)))[0].config.run_id
    apart = page.partition('<section id="kept-apart-or-marked">')[2].partition("</section>")[0]
    line = apart.partition(f"{record_of_fact}.json")[2].partition("</tr>")[0]
    assert "counted, marked ¶: made with another methods/fact.py" in line


def test_csv_and_the_papers_own_numbers_are_free_of_marks(folder, table):
    for path in (folder / "out").glob("table2*.csv"):
        assert not re.search("[†‡§¶]", path.read_text()), path.name
    printed = (folder / "out" / "table2_printed.md").read_text()
    assert not re.search("[§¶]", printed)
    for view in ("ours", "compare"):
        notes = views.sheet(table, view).notes
        assert NOTE in notes and OUTDATED in notes


def test_a_cell_that_is_missing_has_no_mark_and_no_note():
    request = printed_records.request("table2", rows=("linear",), tasks=("cifar",))
    runs = [record(cell) for cell in plan(request)][:2]  # they differ; the third is missing
    built = build(request, Records(Path("nowhere"), {run.run_id: run for run in runs}))
    assert built.long["mixed"].iloc[0] == "weights"
    sheet = views.sheet(built, "ours")
    assert sheet.text.iloc[0, 0] == views.MISSING and "§" not in " ".join(sheet.notes)


def test_means_that_stand_for_tasks_carry_their_marks():
    """Tables 4 and 5 show no tasks, so the means of a group and of all have the marks."""
    request = printed_records.request("table4a", rows=("linear", "bias", "arc"), seeds=(0,))
    done = {}
    for cell in plan(request):
        dirty = cell.row.key == "linear" and cell.task.name == "dtd"
        old = cell.row.key == "arc" and cell.task.name == "dsprites_ori"
        code = methods.code_hash(cell.row.method)
        made = {"git_dirty": dirty, "method_code": OLD if old else code}
        done[cell.config.run_id] = made_up(cell.config, 50.0, curve=(), **made)
    built = build(request, Records(Path("nowhere"), done))
    sheet = views.sheet(built, "ours")
    marks = sheet.text.map(lambda text: re.sub("[^†§¶]", "", text))
    groups = ["Natural (7)", "Specialized (4)", "Structured (8)", "Mean of 19 tasks"]
    assert list(marks.columns.get_level_values(1))[:4] == groups
    assert marks.iloc[:, :4].to_numpy().tolist() == [
        ["†", "", "", "†"],
        ["", "", "", ""],
        ["", "", "§¶", "§¶"],
    ]
    assert "(ARC)" in " ".join(sheet.notes)
    columns = built.long[built.long["kind"] == "group_mean"]
    assert columns["dirty"].isna().all() and columns["outdated"].isna().all()  # CSV: by task


def run(task: str, **more) -> RunRecord:
    (cell, *_) = plan(printed_records.request("table2", rows=("linear",), tasks=(task,)))
    return made_up(cell.config, 50.0, **more)


def test_what_differs_is_counted_over_all_tasks():
    tasks = [
        [run("cifar", data_fingerprint=x) for x in ("a", "a", "b")],
        [run("dtd", data_fingerprint=x) for x in ("c", "c")],
        [run("svhn", data_fingerprint=x) for x in ("d", "e")],
    ]
    assert differences(tasks) == {"data_fingerprint": {"a": 2, "b": 1, "d": 1, "e": 1}}
    assert differences(tasks[1:2]) == {}


def test_what_is_unknown_never_differs():
    unknown = dict.fromkeys(
        ("weights_fingerprint", "data_fingerprint", "data_variant", "precision", "method_code")
    )
    known = dict.fromkeys(unknown, "known")
    assert differences([[run("cifar", **unknown), run("cifar", **known)]]) == {}
    other = dict.fromkeys(unknown, "other")
    differing = differences([[run("cifar", **x) for x in (unknown, known, other)]])
    assert differing == {key: {"known": 1, "other": 1} for key in unknown}


@pytest.mark.parametrize(
    ("row", "column", "line"),
    [
        ("linear", "CIFAR-100", "differs  § weights: made-up (2 runs), other (1 run)"),
        ("Linear probing", "mean", "differs  § weights: made-up (56 runs), other (1 run)"),
        ("adapter", "mean_natural", "differs  § weights: made-up (18 runs), other (3 runs)"),
        ("adapter", "DTD", None),
        ("bias", "DTD", "differs  § pixels: made-up (2 runs), other (1 run)"),
        ("bias", "mean", "differs  § pixels: made-up (2 runs), other (1 run)"),
        ("lora", "CIFAR-100", "differs  § image format: png (1 run), jpg (2 runs)"),
        ("ssf", "DTD", "differs  § precision: fp32 (1 run), bf16 (2 runs)"),
        ("full", "mean", None),
        ("vpt-deep", "DTD", None),
        ("fact", "mean", None),
    ],
)
def test_why_says_what_differs_and_how_often(folder, capsys, row, column, line):
    words = ["--profile", "paper", "--results", str(folder)]
    assert main(["tables", *words, "--why", "2", row, column]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("differs")]
    assert [x for x in lines if x.startswith("differs")] == ([line] if line else [])


def test_why_lists_the_codes_of_a_method(folder, capsys):
    words = ["--profile", "paper", "--results", str(folder)]
    assert main(["tables", *words, "--why", "2", "arc", "SVHN"]) == 0
    out = capsys.readouterr().out
    now = methods.code_hash("arc")
    assert f"differs  § method code: {now} (1 run), {OLD} (2 runs)" in out
    files = " or ".join(map(methods.display, methods.code_files("arc")))
    lines = [line for line in out.splitlines() if line.startswith("run ")]
    outdated = [f"¶ made with another {files}" in line for line in lines]
    assert outdated == [False, True, True]


@pytest.mark.parametrize(
    ("row", "options"),
    [
        (
            "lora",
            "rank 8 (default), targets qkv (default), alpha None (default), dropout 0.1 (default), "
            "init paper (default)",
        ),
        (
            "adapter",
            "bottleneck 12, reduction None (default), placement pfeiffer (default), init zero, "
            "activation gelu (default), dropout 0.0 (default)",
        ),
        ("linear", "none"),
    ],
)
def test_why_lists_every_option_and_marks_defaults(folder, capsys, row, options):
    words = ["--profile", "paper", "--results", str(folder)]
    assert main(["tables", *words, "--why", "2", row, "DTD"]) == 0
    assert f"options  {options}\n" in capsys.readouterr().out


PLUGIN = '''"""Nothing but the head."""


def attach(anatomy, options):
    pass


def count(anatomy, options):
    return 0
'''


@pytest.fixture
def plugin(tmp_path, no_plugins):
    path = tmp_path / "headonly.py"
    path.write_text(PLUGIN)
    methods.add_plugin(path)
    return path


def test_a_plugin_that_is_edited_marks_its_cells(plugin, tmp_path, capsys):
    request = printed_records.request("table2", rows=("headonly", "linear"), tasks=("dtd", "svhn"))
    runs = []
    for cell in plan(request):
        code = methods.code_hash("headonly") if cell.row.key == "headonly" else None
        code = None if cell.task.name == "svhn" else code  # from before codes were noted
        runs.append(made_up(cell.config, 50.0, curve=(), method_code=code))
    printed_records.put(tmp_path, runs)

    def shown() -> tuple[list[str], str]:
        sheet = views.sheet(build(request, scan(tmp_path)), "ours")
        return list(sheet.text.loc["headonly"])[:2], " ".join(sheet.notes)

    assert shown()[0] == ["50.0", "50.0"] and "¶" not in shown()[1]
    plugin.write_text(PLUGIN.replace("return 0", "return 1 - 1"))
    assert "¶" not in shown()[1]  # this process still runs what it has read
    methods.add_plugin(plugin)
    text, notes = shown()
    assert text == ["50.0¶", "50.0"]
    assert "¶: made with a method file or inputs that have changed (headonly)." in notes
    assert "Linear" not in notes
    words = ["--profile", "paper", "--results", str(tmp_path), "--plugin", str(plugin)]
    assert main(["tables", *words, "--why", "2", "headonly", "DTD"]) == 0
    assert capsys.readouterr().out.count(f"¶ made with another {plugin}") == 3
    assert main(["tables", *words, "--why", "2", "headonly", "SVHN"]) == 0
    assert "¶" not in capsys.readouterr().out
    plugin.write_text(PLUGIN)
    methods.add_plugin(plugin)
    assert shown()[0] == ["50.0", "50.0"]


def test_a_sweep_may_know_of_other_inputs():
    """It compares weights and pixels with today's; what it finds is marked as well."""
    request = printed_records.request("table2", rows=("linear",), tasks=("cifar", "dtd"))
    done = {cell.config.run_id: record(cell) for cell in plan(request)}
    records = Records(Path("nowhere"), done)
    last = plan(request)[-1].config.run_id
    built = build(request, records, outdated={last: ("weights", "pixels")})
    cells = built.long[built.long["kind"] == "task"]
    assert cells["outdated"].tolist() == [0, 1]
    assert views.sheet(built, "ours").text.iloc[0, 1] == "50.0¶"
    assert "1 runs made with another method file or other inputs" in output.summary(built)
