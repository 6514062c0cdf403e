"""Which records count: the damaged, foreign, duplicated, uncommitted are named, not averaged."""

import json

import printed_records
import pytest

from rlrr_bench.benchmarks.config import Recipe, RunConfig
from rlrr_bench.benchmarks.record import RunRecord
from rlrr_bench.benchmarks.store import Results
from rlrr_bench.launch.cli import main
from rlrr_bench.paper_tables import records
from rlrr_bench.paper_tables.bench import made_up
from rlrr_bench.paper_tables.plan import plan
from rlrr_bench.paper_tables.table import build

BACKBONE = "vit_base_patch16_224.orig_in21k"


def config(seed: int = 0) -> RunConfig:
    return RunConfig("vtab-1k", "cifar", BACKBONE, "linear", recipe=Recipe(lr=0.5), seed=seed)


@pytest.fixture
def results(tmp_path) -> Results:
    results = Results(tmp_path)
    results.write(made_up(config(), 50.0))
    return results


def reason(results: Results, name: str) -> str:
    """Why this file is kept apart; the good record beside it must be there all the same."""
    found = records.scan(results.folder)
    assert list(found.done) == [config().run_id]
    assert list(found.apart) == [name]
    assert "\n" not in found.apart[name]
    return found.apart[name]


def content(record: RunRecord) -> dict:
    """What the record's file holds."""
    return json.loads(record.to_json())


def write(results: Results, name: str, record) -> str:
    text = record if isinstance(record, str) else json.dumps(record)
    (results.runs / name).write_text(text)
    return reason(results, name)


def test_damaged(results):
    other = content(made_up(config(1), 60.0))
    name = f"{other['run_id']}.json"
    cut = json.dumps(other)[:200]
    assert "not JSON" in write(results, name, cut)
    assert "not a record" in write(results, name, [1, 2])
    assert "status 'half'" in write(results, name, other | {"status": "half"})
    assert "config" in write(results, name, {k: v for k, v in other.items() if k != "config"})
    assert "not JSON" in write(results, name, other | {"top1_last": float("nan")})
    for top1 in (None, "60", 101.0, True):
        assert "top1_last" in write(results, name, other | {"top1_last": top1})


def test_another_schema(results):
    other = content(made_up(config(1), 60.0)) | {"schema": 0}
    assert write(results, f"{other['run_id']}.json", other) == "schema 0; this code reads 1"


def test_duplicates_and_changed_configs(results):
    run_id = config().run_id
    copy = content(made_up(config(), 99.0))
    assert write(results, f"{run_id}-copy.json", copy) == f"duplicate of {run_id}.json"
    (results.runs / f"{run_id}-copy.json").unlink()
    other = content(made_up(config(1), 60.0))
    assert "holds the run" in write(results, "other.json", other)
    (results.runs / "other.json").unlink()
    changed = other | {"config": config(2).to_dict()}
    text = write(results, f"{other['run_id']}.json", changed)
    assert text == f"its config is that of the run {config(2).run_id}"


def test_drafts_and_failed_runs(results):
    (results.runs / ".draft.json").write_text("{")
    results.write(RunRecord.failed(config(1), "OutOfMemoryError: 3 GB"))
    found = records.scan(results.folder)
    assert (list(found.failed), found.apart) == ([config(1).run_id], {})


def test_uncommitted_code_is_marked_or_left_out(tmp_path, capsys):
    """One run of three from a dirty tree: its cell is marked, or missing with --committed."""
    results = Results(tmp_path / "results")
    part = printed_records.request("table2", rows=("linear",), tasks=("cifar", "dtd"))
    for cell in plan(part):
        dirty = cell.task.name == "cifar" and cell.seed == 1
        results.write(made_up(cell.config, 50.0 + cell.seed, git_dirty=dirty))
    words = ["tables", "--profile", "paper", "--table", "2", "--results", str(results.folder)]
    words += ["--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert capsys.readouterr().out.count(".json: code not committed") == 1
    line = next(x for x in (tmp_path / "out/table2.md").read_text().splitlines() if "Linear" in x)
    assert "51.0†" in line and line.count("51.0") == 2
    assert main([*words, "--committed"]) == 0
    line = next(x for x in (tmp_path / "out/table2.md").read_text().splitlines() if "Linear" in x)
    assert "†" not in line and line.count("51.0") == 1
    assert "kept apart" in capsys.readouterr().out


def test_a_cell_without_all_of_its_seeds_is_missing_and_so_are_its_means(tmp_path):
    results = Results(tmp_path)
    part = printed_records.request("table3", rows=("linear",))
    for cell in plan(part):
        if not (cell.task.name == "NABirds" and cell.seed == 2):
            results.write(made_up(cell.config, 50.0))
    table = build(part, records.scan(tmp_path))
    long = table.long.set_index("column")
    assert long.loc["CUB_200_2011", "ours"] == 50.0
    assert long["ours"].isna()[["NABirds", "mean"]].all()
    assert (long.loc["NABirds", "seeds"], long.loc["NABirds", "wanted"]) == (2, 3)
