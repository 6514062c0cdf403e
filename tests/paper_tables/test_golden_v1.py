"""What must never change: the run ids of all tables, and the tables of a results folder of 0.1.

tests/golden/run_ids.json       a hash of its ids for every profile, table, protocol and row
tests/golden/run_ids_0.2.json   the same before recipes were mended
tests/golden/v1/runs            records of the demo as version 0.1 wrote them, 13 done and 2 failed
tests/golden/v1/out, csv        what version 0.1 built from them
"""

import hashlib
import itertools
import json
import re
import shutil
from functools import cache
from pathlib import Path

import pandas as pd
import printed_records
import pytest

from rlrr_bench.benchmarks.store import Results
from rlrr_bench.launch.cli import main
from rlrr_bench.paper_tables import specs
from rlrr_bench.paper_tables.plan import PROTOCOLS, plan

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
V1 = GOLDEN / "v1"
RUN_IDS = json.loads((GOLDEN / "run_ids.json").read_text())
RUN_COLUMNS = {
    *("reason", "traceback", "version", "code", "method_code", "plugins", "log"),  # since 0.2
    *("top1_best_10", "recipe_adamw", "recipe_eps", "recipe_mix_batch"),  # since 0.3
}
NEW_COLUMNS = {
    "table2_cells.csv": {"mixed", "outdated"},
    "table4a_cells.csv": {"mixed", "outdated"},
    "fig2_cells.csv": {"mixed", "outdated"},
    "optimism.csv": {"best_10", "optimism_10", "published", "published_of"},
    "table2.csv": RUN_COLUMNS,
    "table4a.csv": RUN_COLUMNS,
}


def test_run_ids():
    """A record is found by its run's id: another id, and the run would be done again."""
    assert ids_now() == RUN_IDS


@cache
def ids_now() -> dict[str, str]:
    """A hash of the run ids of every row of every table, by every protocol."""
    found = {}
    for profile, name, protocol in itertools.product(specs.profiles(), specs.every(), PROTOCOLS):
        request = printed_records.request(name, profile, seeds=(0, 1, 2), protocol=protocol)
        lines: dict[str, list[str]] = {}
        for cell in plan(request):
            own = cell.config.run_id if cell.config else "-"
            trials = (trial.run_id for trial in cell.trials)
            row, task = cell.row.key, cell.task
            line = " ".join([row, task.benchmark, task.name, str(cell.seed), own, *trials])
            lines.setdefault(row, []).append(line)
        for row, text in lines.items():
            digest = hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]
            found[f"{profile} {name} {protocol} {row}"] = digest
    return found


OF_VPT = ("full", "linear", "adapter", "bias", "vpt-shallow", "vpt-deep")
CHANGED = {  # since 0.2, because their recipes were wrong; CHANGELOG.md says how
    "paper table2": {*OF_VPT, "lora", "fact"},
    "paper table3": {*OF_VPT, "lora", "rlrr", "ssf", "rlrr-augreg"},
    "paper table4a": {*OF_VPT, "lora"},
    "paper table4b": {*OF_VPT, "lora"},
    "paper table5": {*OF_VPT, "mlp", "partial", "arc"} - {"adapter"},
    "paper table6": set(specs.spec("table6").rows),
    "demo table2": {"fact"},
}


def test_only_rows_whose_recipe_was_mended_have_other_ids_than_in_0_2():
    old = json.loads((GOLDEN / "run_ids_0.2.json").read_text())
    changed: dict[str, set[str]] = {}
    for key, digest in old.items():
        profile, name, _, row = key.split()
        if RUN_IDS[key] != digest:
            changed.setdefault(f"{profile} {name}", set()).add(row)
    assert changed == CHANGED
    assert {key for key in RUN_IDS if key.split()[2] != "printed"} == set(old)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory) -> Path:
    """The old records with everything built from them; out/ is beside results/."""
    root = tmp_path_factory.mktemp("v1")
    shutil.copytree(V1 / "runs", root / "results" / "runs")
    folders = ["--results", str(root / "results"), "--out", str(root / "out")]
    assert main(["tables", "--profile", "demo", *folders]) == 0
    return root


def test_old_records_are_read(rebuilt):
    records = {path.stem: record for path, record in Results(rebuilt / "results").all()}
    assert len(records) == 15
    done = [record for record in records.values() if record.done]
    assert len(done) == 13
    for record in done:
        assert record.method_code is None and record.plugins == {} and record.reason is None
    failed = {record.error: record.reason for record in records.values() if not record.done}
    assert failed == {
        "Diverged: loss is nan in epoch 3 of 25 (lr 0.01)": "diverged",
        "the worker process died (signal 9)": "worker_died",
    }


@pytest.mark.parametrize("name", sorted(path.name for path in (V1 / "out").iterdir()))
def test_files_of_the_tables_are_the_same_bytes_but_for_a_new_note(rebuilt, name):
    now = (rebuilt / "out" / name).read_text()
    assert re.sub(r" Made from: .*?\.(?= |\}|\n)", "", now) == (V1 / "out" / name).read_text()


@pytest.mark.parametrize("name", sorted(path.name for path in (V1 / "csv").iterdir()))
def test_csv_files_have_the_old_columns_with_the_old_values(rebuilt, name):
    def read(path: Path) -> pd.DataFrame:
        try:
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        except pd.errors.EmptyDataError:  # Fig. 2 has no runs
            return pd.DataFrame()

    old, new = read(V1 / "csv" / name), read(rebuilt / "results" / name)
    assert set(new.columns) - set(old.columns) == NEW_COLUMNS.get(name, set())
    assert [column for column in new.columns if column in old.columns] == list(old.columns)
    if name == "table2_cells.csv":  # FacT's runs are others now (CHANGED); none was made then
        for cells in (new, old):
            cells.loc[cells["row"] == "fact", "runs"] = ""
    pd.testing.assert_frame_equal(new[old.columns], old)


def test_there_is_nothing_to_mark_in_old_records(rebuilt):
    for name in ("table2", "table4a"):
        cells = pd.read_csv(rebuilt / "results" / f"{name}_cells.csv")
        assert cells["mixed"].isna().all() and not (cells["outdated"] > 0).any()
