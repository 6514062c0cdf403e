"""The command that builds the tables: empty folders, traces, schemas of the CSVs, LaTeX, Fig. 2."""

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
from rlrr_bench.benchmarks.record import Results
from rlrr_bench.paper_tables import build, figures, latex, specs, stats, views
from rlrr_bench.paper_tables.bench import made_up
from rlrr_bench.paper_tables.records import scan
from rlrr_bench.paper_tables.table import LONG

ROOT = Path(__file__).resolve().parents[2]
ALL = (*printed_records.NAMES, "fig2")


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """A folder with every table and figure, built from complete records (and one dirty run)."""
    root = tmp_path_factory.mktemp("full")
    for name in printed_records.NAMES:
        printed_records.write(root / "results", name, git_dirty=name == "table6")
    printed_records.write_figure(root / "results")
    assert build.main(words(root)) == 0
    return root


def words(root: Path) -> list[str]:
    folders = ["--results", str(root / "results"), "--out", str(root / "out")]
    return ["--profile", "paper", *folders]


def test_an_empty_folder_gives_every_table_with_its_cells_marked_missing(tmp_path, capsys):
    assert build.main(words(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "table2   0 of 266 cells" in out and "fig2     0 of 16 cells" in out
    for name in ALL:
        markdown = (tmp_path / "out" / f"{name}.md").read_text()
        rows = [line for line in markdown.splitlines() if line.startswith("|")][2:]
        assert len(rows) == len(specs.load(name).rows)
        cells = [cell.strip() for row in rows for cell in row.split("|")[2:-1]]
        assert set(cells) == {views.MISSING}, name
        tex = (tmp_path / "out" / f"{name}.tex").read_text()
        assert tex.count(" & --") == len(cells)
    for name in ("fig2.png", "fig2.pdf", "all.tex", "table4a_printed.tex", "table2_compare.csv"):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_both_profiles_without_arguments(tmp_path):
    """As `make tables` calls it, from a copy of nothing but the code's defaults."""
    code = "from paper_tables import build; from pathlib import Path\n"
    code += f"build.ROOT = Path({str(tmp_path)!r}); raise SystemExit(build.main([]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for profile in ("paper", "demo"):
        assert (tmp_path / "paper_tables" / "out" / profile / "table5.tex").is_file()
    text = (tmp_path / "paper_tables" / "out" / "demo" / "table4a.tex").read_text()
    assert "small backbones and tasks made by the project" in text
    assert not (tmp_path / "paper_tables" / "out" / "demo" / "table4a_printed.tex").exists()


def test_all_of_the_demo_is_full_once_its_runs_are_there(tmp_path):
    """And says which backbone stands in for which: Table 4's L and H, Table 5's Swin."""
    results, profile = Results(tmp_path), specs.profile("demo")
    for name in ALL:
        for cell in specs.plan(specs.load(name), profile):
            assert cell.config, f"{name}: {cell.reason}"
            results.write(made_up(cell.config, 50.0, curve=[]))
    tables = build.tables(ALL, profile, scan(tmp_path))
    for table in tables:
        assert table.long["ours"].notna().all(), table.spec.name
    notes = {table.spec.name: " ".join(table.notes) for table in tables}
    vit, swin = "vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes"
    assert f"{vit} in place of vit_large_patch16_224.orig_in21k." in notes["table4a"]
    assert f"{vit} in place of vit_huge_patch14_224.orig_in21k." in notes["table4b"]
    assert f"{swin} in place of swin_base_patch4_window7_224.ms_in22k." in notes["table5"]


def test_planning_and_building_need_no_torch():
    code = "import sys, paper_tables.report, paper_tables.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_why_lists_runs_rule_recipe_and_source(full, capsys):
    assert build.main([*words(full), "--why", "table2", "RLRR", "CIFAR-100"]) == 0
    out = capsys.readouterr().out
    cells = specs.plan(specs.load("table2"), specs.profile("paper"), ["rlrr"], ["cifar"])
    for cell in cells:
        assert f"{cell.config.run_id}  CIFAR-100 seed {cell.seed}: last 75.60" in out
    assert "ours     75.6 ± 0.00" in out and "printed  75.6" in out
    assert "rule     recipe: last epoch" in out and "source   recipe rlrr: RLRR's code" in out
    assert "lr 0.003" in out and "weight_decay 5e-05" in out
    assert build.main([*words(full), "--why", "table2", "RLRR", "mean_natural"]) == 0
    out = capsys.readouterr().out
    assert "ours     82.6" in out and "printed  82.7  ‡ the 7 printed cells give 82.643" in out
    assert out.count("seed 0: last") == 7


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--why", "tabel2", "RLRR", "DTD"), "unknown table 'tabel2'; did you mean table2"),
        (("--why", "table2", "RLR", "DTD"), "unknown row 'RLR' of table2"),
        (("--why", "table2", "RLRR", "DTT"), "unknown column 'DTT' of table2"),
        (("--profile", "papr"), "unknown profile 'papr'; did you mean paper"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(asked, message, capsys):
    assert build.main(list(asked)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert build.main(["--results", "somewhere"]) == 2


def test_csv_schemas_are_those_of_the_readme(full, small_data, small_config):
    """Every column is in results/README.md and every column named there is in the files."""
    from rlrr_bench.benchmarks.run import Place, execute

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
    record = execute(small_config, Place(small_data, device="cpu"))
    assert record["status"] == "done", record["error"]
    assert set(record) == documented("Fields of a record (and columns of `<table>.csv`)")
    assert set(record) == set(made_up(small_config, 50.0))
    config = {f.name for f in fields(RunConfig)} - {"recipe"}
    recipe = {f"recipe_{f.name}" for f in fields(type(small_config.recipe))}
    made = {"table", "row", "recipe_source"} | (set(record) - {"config", "curve", "schema"})
    assert columns("table2") == made | config | recipe


def test_tables_are_written_anew_and_whole(full):
    files = sorted((full / "out").iterdir())
    assert not [file for file in files if file.name.startswith(".")]
    assert {file.suffix for file in files} == {".tex", ".md", ".csv", ".pdf", ".png"}


def test_fig2_has_a_line_a_module_set_and_its_switches(full, monkeypatch):
    table = build.tables(["fig2"], specs.profile("paper"), scan(full / "results"))[0]
    figure, caption = figures.modules_and_layers(table)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["MHA", "FFN", "LayerNorm", "All"]
    assert list(lines["All"].get_xdata()) == [3, 6, 9, 12]
    assert list(lines["All"].get_ydata()) == pytest.approx([63.9, 67.8, 71.7, 75.6])
    assert len(axes.collections) == 4 and "standard deviation" in caption
    spec = specs.load("fig2")
    demo = specs.plan(spec, specs.profile("demo"))
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
    whole = specs.plan(replace(spec, benchmark="cifar100"), specs.profile("paper"))
    assert {(c.task.benchmark, c.task.sizes["trainval"]) for c in whole} == {("cifar100", 50_000)}
    with pytest.raises(specs.ConfigError, match="order: found 'middle', expected first or last"):
        specs._series_rows({"order": "middle", "layers": [], "modules": {}, "options": {}}, "x")


def test_labels_of_the_scatter_do_not_lie_on_each_other(full):
    for name in printed_records.NAMES:
        table = build.tables([name], specs.profile("paper"), scan(full / "results"))[0]
        with figures.plt.rc_context(figures.STYLE):
            figure, _ = figures.accuracy_against_parameters(table)
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        boxes = [figures.Text.get_window_extent(t, renderer) for t in figure.axes[0].texts]
        assert len(boxes) == len(table.spec.rows)
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert not any(a.overlaps(b) for a, b in pairs), name
        figures.plt.close(figure)


def test_latex_compiles_without_a_warning(full, tmp_path):
    if shutil.which("pdflatex") is None:
        assert not os.environ.get("CI"), "pdflatex must be there in CI"
        pytest.skip("pdflatex is not installed")
    shutil.copytree(full / "out", tmp_path / "out")
    tags = "vit_base_patch16_224.augreg_in21k and vit_base_patch16_224.orig_in21k"
    narrow = latex.figure("fig2", f"Table 2, demo profile: vit_demo_patch8_32.shapes for {tags}.")
    whole = (tmp_path / "out" / "all.tex").read_text()
    whole = whole.replace(
        "\\end{document}", narrow.replace("fig:fig2", "fig:long") + "\\end{document}"
    )
    (tmp_path / "out" / "all.tex").write_text(whole)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    for _ in range(2):  # the second run has the labels
        done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, timeout=300)
    log = (tmp_path / "out" / "all.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    found = [x for x in log.splitlines() if re.search("warning|overfull|underfull", x, re.I)]
    assert not found, found
    inputs = re.findall(r"\\input\{(.+)\}", (full / "out" / "all.tex").read_text())
    assert len(inputs) == 6 * 3 + 2
    included = re.findall(r"includegraphics.*\{(.+)\}", (full / "out" / "all.tex").read_text())
    drawn = {file.name for file in (full / "out").glob("*.pdf")}
    assert set(included) == drawn and "fig2.pdf" in drawn and len(drawn) >= 14


def test_results_folder_of_another_protocol_is_labelled(tmp_path):
    results, profile = Results(tmp_path), specs.profile("paper")
    cells = specs.plan(specs.load("table3"), profile, ["linear"], protocol="best_test")
    for cell in cells:
        results.write(made_up(cell.config, 50.0, top1_best_test=52.0))
    table = build.build(cells, scan(tmp_path), profile, "best_test")
    assert table.long.set_index("column").loc["mean", "ours"] == 52.0
    assert "optimistic" in " ".join(views.sheet(table, "ours").notes)
