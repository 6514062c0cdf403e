"""The command that builds the tables: empty folders, traces, schemas of the CSVs, LaTeX, Fig. 2."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import printed_records
import pytest

from rlrr_bench.benchmarks.config import RunConfig
from rlrr_bench.benchmarks.record import FIELDS
from rlrr_bench.launch.cli import main
from rlrr_bench.paper_tables import figures, latex, output, specs, stats, views
from rlrr_bench.paper_tables.bench import made_up
from rlrr_bench.paper_tables.plan import TableRequest, plan
from rlrr_bench.paper_tables.records import scan
from rlrr_bench.paper_tables.table import LONG, build

ROOT = Path(__file__).resolve().parents[2]
ALL = (*printed_records.NAMES, "fig2")


@pytest.fixture(scope="module")
def full(shared, paper_records) -> Path:
    """A folder with every table and figure, from complete records; those of Table 6 alone dirty."""

    def make(root: Path) -> None:
        runs = root / "results" / "runs"
        shutil.copytree(paper_records / "runs", runs, copy_function=os.link)
        elsewhere = {cell.config.run_id for cell in plan(printed_records.request("table3"))}
        for cell in plan(printed_records.request("table6")):
            if cell.config.run_id not in elsewhere:
                (runs / f"{cell.config.run_id}.json").unlink()
        printed_records.write(root / "results", "table6", git_dirty=True)
        printed_records.write_figure(root / "results")
        assert main(words(root)) == 0

    return shared("full", make)


def words(root: Path) -> list[str]:
    folders = ["--results", str(root / "results"), "--out", str(root / "out")]
    return ["tables", "--profile", "paper", *folders]


@pytest.fixture(scope="module")
def empty(shared) -> Path:
    """A working directory in which the tables of both profiles were built before any run."""

    def make(root: Path) -> None:
        told = root / "told.txt"
        with contextlib.chdir(root), told.open("w") as file, contextlib.redirect_stdout(file):
            assert main(["tables"]) == 0

    return shared("empty", make)


@pytest.mark.parametrize("profile", specs.profiles())
def test_an_empty_folder_gives_every_table_with_its_cells_marked_missing(empty, profile):
    out = empty / "paper_tables" / "out" / profile
    for name in ALL:
        markdown = (out / f"{name}.md").read_text()
        rows = [line for line in markdown.splitlines() if line.startswith("|")][2:]
        assert len(rows) == len(specs.spec(name).rows)
        cells = [cell.strip() for row in rows for cell in row.split("|")[2:-1]]
        assert set(cells) == {views.MISSING}, name
        tex = (out / f"{name}.tex").read_text()
        assert tex.count(" & --") == len(cells)
        long = pd.read_csv(empty / "results" / profile / f"{name}_cells.csv")
        assert long["ours"].isna().all()
    for name in ("fig2.png", "fig2.pdf", "all.tex"):
        assert (out / name).stat().st_size > 0


def test_both_profiles_without_arguments(empty):
    """As `make tables` calls it; what is written lies in the working directory."""
    told = (empty / "told.txt").read_text()
    assert "table2   0 of 266 cells" in told and "fig2     0 of 16 cells" in told
    assert "table2   0 of 84 cells" in told
    paper, demo = (empty / "paper_tables" / "out" / name for name in ("paper", "demo"))
    for name in ("table4a_printed.tex", "table2_compare.csv"):
        assert (paper / name).stat().st_size > 0
        assert not (demo / name).exists()  # the paper prints no numbers for it
    text = (demo / "table4a.tex").read_text()
    assert "small backbones and tasks made by the project" in text
    assert {path.name for path in empty.iterdir()} == {"results", "paper_tables", "told.txt"}


def test_all_of_the_demo_is_full_once_its_runs_are_there(tmp_path):
    """And says which backbone stands in for which: Table 4's L and H, Table 5's Swin."""
    profile = specs.profile("demo")
    for name in ALL:
        cells = plan(TableRequest(specs.spec(name), profile))
        assert all(cell.config for cell in cells), name
        made = (made_up(cell.config, 50.0, curve=()) for cell in cells)
        printed_records.put(tmp_path, made)
    tables = output.whole(ALL, profile, scan(tmp_path))
    for table in tables:
        assert table.long["ours"].notna().all(), table.spec.name
    notes = {table.spec.name: " ".join(table.notes) for table in tables}
    vit, swin = "vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes"
    assert f"{vit} in place of vit_large_patch16_224.orig_in21k." in notes["table4a"]
    assert f"{vit} in place of vit_huge_patch14_224.orig_in21k." in notes["table4b"]
    assert f"{swin} in place of swin_base_patch4_window7_224.ms_in22k." in notes["table5"]


def test_planning_and_building_need_no_torch(tmp_path):
    code = """
import sys
from rlrr_bench.launch.cli import main
from rlrr_bench.paper_tables import report
assert main(["tables", "--profile", "demo", "--table", "2"]) == 0
sys.exit("torch" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0


def test_why_lists_runs_protocol_recipe_options_and_source(full, capsys):
    assert main([*words(full), "--why", "table2", "RLRR", "CIFAR-100"]) == 0
    out = capsys.readouterr().out
    for cell in plan(printed_records.request("table2", rows=("rlrr",), tasks=("cifar",))):
        assert f"{cell.config.run_id}  CIFAR-100 seed {cell.seed}: last 75.60" in out
    assert "ours     75.6 ± 0.00" in out and "printed  75.6" in out
    assert "protocol recipe: last epoch" in out and "source   recipe rlrr: RLRR's code" in out
    assert "lr 0.003" in out and "weight_decay 5e-05" in out
    assert main([*words(full), "--why", "2", "RLRR", "CIFAR-100"]) == 0
    assert capsys.readouterr().out == out
    assert main([*words(full), "--why", "table2", "RLRR", "mean_natural"]) == 0
    out = capsys.readouterr().out
    assert "ours     82.6" in out and "printed  82.7  ‡ the 7 printed cells give 82.643" in out
    assert out.count("seed 0: last") == 7


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--why", "tabel2", "RLRR", "DTD"), "unknown table 'tabel2'; did you mean table2"),
        (("--table", "tabel2"), "unknown table 'tabel2'; did you mean table2"),
        (("--why", "4", "RLRR", "Mean"), "--why: 4 is table4a and table4b; name one of them"),
        (("--why", "table2", "RLR", "DTD"), "unknown row 'RLR' of table2"),
        (("--why", "table2", "RLRR", "DTT"), "unknown column 'DTT' of table2"),
        (("--profile", "papr"), "unknown profile 'papr'; did you mean paper"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(asked, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["tables", *asked]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["tables", "report"])
@pytest.mark.parametrize("flag", ["--results", "--out"])
def test_one_folder_is_of_one_profile(verb, flag, capsys):
    assert main([verb, flag, "somewhere"]) == 2
    error = capsys.readouterr().err
    assert "--results and --out need --profile" in error and error.count("\n") == 1


def test_csv_schemas_are_those_of_the_readme(full, small_data, small_config):
    """Every column is in results/README.md and every column named there is in the files."""
    from rlrr_bench.benchmarks.context import RunContext
    from rlrr_bench.benchmarks.run import execute

    readme = (ROOT / "results" / "README.md").read_text()

    def documented(heading: str) -> set[str]:
        section = readme.split(f"## {heading}")[1].split("\n## ")[0]
        table = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
        return {name.strip() for cell in table[1:] for name in cell.split(",")} - {"---"}

    def columns(name: str) -> set[str]:
        return set(pd.read_csv(full / "results" / f"{name}.csv", nrows=1).columns)

    assert documented("Columns of `<table>_cells.csv`") == columns("table2_cells") == set(LONG)
    assert documented("Columns of `pairs.csv`") == columns("pairs") == set(stats.PAIRS)
    assert documented("Columns of `optimism.csv`") == columns("optimism") == set(stats.OPTIMISM)
    assert documented("Columns of `costs.csv`") == columns("costs") == set(stats.COSTS)
    long = pd.read_csv(full / "results" / "table2_cells.csv")
    head = {"table", "row", "label", "row_group", "source"}
    assert columns("table2_wide") == head | set(long["column"])
    # a record as a run writes it: documented, and what the tests and the bench make up is like it
    record = execute(small_config, RunContext(small_data, device="cpu"))
    assert record.done, record.error
    fields_of_record = set(json.loads(record.to_json()))
    assert fields_of_record == documented("Fields of a record (and columns of `<table>.csv`)")
    unknown = {name for name in FIELDS if getattr(record, name) is None}
    made = made_up(small_config, 50.0, method_code=record.method_code)
    assert unknown == {name for name in FIELDS if getattr(made, name) is None}
    config = {f.name for f in fields(RunConfig)} - {"recipe"}
    recipe = {f"recipe_{f.name}" for f in fields(type(small_config.recipe))}
    asked = {"table", "row", "recipe_source"}
    flat = fields_of_record - {"config", "curve", "schema"}
    assert columns("table2") == asked | flat | config | recipe


def test_tables_are_written_anew_and_whole(full):
    files = sorted((full / "out").iterdir())
    assert not [file for file in files if file.name.startswith(".")]
    assert {file.suffix for file in files} == {".tex", ".md", ".csv", ".pdf", ".png"}


def test_fig2_has_a_line_a_module_set_and_its_switches(full, monkeypatch):
    table = output.whole(["fig2"], specs.profile("paper"), scan(full / "results"))[0]
    figure, caption = figures.modules_and_layers(table)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["MHA", "FFN", "LayerNorm", "All"]
    assert list(lines["All"].get_xdata()) == [3, 6, 9, 12]
    assert list(lines["All"].get_ydata()) == pytest.approx([63.9, 67.8, 71.7, 75.6])
    assert len(axes.collections) == 4 and "standard deviation" in caption
    demo = plan(printed_records.request("fig2", "demo"))
    assert [c.config.options["layers"] for c in demo[:4]] == [f"first:{k}" for k in (1, 2, 3, 4)]
    last = specs._series_rows(
        {
            "method": "rlrr",
            "order": "last",
            "layers": [3],
            "modules": {"All": ["q"]},
            "options": {},
        },
        "here",
    )
    assert last["all-3"]["options"] == {"modules": ["q"], "layers": "last:3"}
    spec = replace(specs.spec("fig2"), benchmark="cifar100")
    whole = plan(TableRequest(spec, specs.profile("paper")))
    assert {(c.task.benchmark, c.task.sizes["trainval"]) for c in whole} == {("cifar100", 50_000)}
    with pytest.raises(specs.ConfigError, match="order: found 'middle', expected first or last"):
        specs._series_rows({"order": "middle", "layers": [], "modules": {}, "options": {}}, "x")


def test_labels_of_the_scatter_do_not_lie_on_each_other(paper_records):
    for table in output.whole(printed_records.NAMES, specs.profile("paper"), scan(paper_records)):
        with figures.plt.rc_context(figures.STYLE):
            figure, _ = figures.accuracy_against_parameters(table)
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        boxes = [figures.Text.get_window_extent(t, renderer) for t in figure.axes[0].texts]
        assert len(boxes) == len(table.spec.rows)
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert not any(a.overlaps(b) for a, b in pairs), table.name
        figures.plt.close(figure)


@pytest.mark.slow
def test_latex_compiles_without_a_warning(full, tmp_path, compile_latex):
    shutil.copytree(full / "out", tmp_path / "out")
    tags = "vit_base_patch16_224.augreg_in21k and vit_base_patch16_224.orig_in21k"
    narrow = latex.figure("fig2", f"Table 2, demo profile: vit_demo_patch8_32.shapes for {tags}.")
    whole = (tmp_path / "out" / "all.tex").read_text()
    whole = whole.replace(
        "\\end{document}", narrow.replace("fig:fig2", "fig:long") + "\\end{document}"
    )
    (tmp_path / "out" / "all.tex").write_text(whole)
    compile_latex(tmp_path / "out" / "all.tex")
    inputs = re.findall(r"\\input\{(.+)\}", (full / "out" / "all.tex").read_text())
    assert len(inputs) == 6 * 3 + 2
    included = re.findall(r"includegraphics.*\{(.+)\}", (full / "out" / "all.tex").read_text())
    drawn = {file.name for file in (full / "out").glob("*.pdf")}
    assert set(included) == drawn and "fig2.pdf" in drawn and len(drawn) >= 14


def test_results_folder_of_another_protocol_is_labelled(tmp_path):
    request = printed_records.request("table3", rows=("linear",), protocol="best_test")
    made = (made_up(cell.config, 50.0, top1_best_test=52.0) for cell in plan(request))
    printed_records.put(tmp_path, made)
    table = build(request, scan(tmp_path))
    assert table.long.set_index("column").loc["mean", "ours"] == 52.0
    assert "optimistic" in " ".join(views.sheet(table, "ours").notes)
