"""What must never change: the run ids of all tables, and the tables of a results folder of 0.1.

tests/golden/run_ids.json   a hash for every profile, table and protocol, over its cells with ids
tests/golden/v1/runs        records of the demo as version 0.1 wrote them, 13 done and 2 failed
tests/golden/v1/out, csv    what version 0.1 built from them
"""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import printed_records
import pytest

from rlrr_bench.benchmarks.record import Results
from rlrr_bench.launch.cli import main
from rlrr_bench.paper_tables import specs
from rlrr_bench.paper_tables.plan import PROTOCOLS, plan

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
V1 = GOLDEN / "v1"
RUN_IDS = json.loads((GOLDEN / "run_ids.json").read_text())
RUN_COLUMNS = {"reason", "traceback", "version", "code", "method_code", "plugins", "log"}
NEW_COLUMNS = {
    "table2_cells.csv": {"mixed", "outdated"},
    "table4a_cells.csv": {"mixed", "outdated"},
    "fig2_cells.csv": {"mixed", "outdated"},
    "table2.csv": RUN_COLUMNS,
    "table4a.csv": RUN_COLUMNS,
}


def test_no_table_is_left_out():
    every = {f"{p} {n} {r}" for p in specs.profiles() for n in specs.every() for r in PROTOCOLS}
    assert set(RUN_IDS) == every


@pytest.mark.parametrize("key", RUN_IDS)
def test_run_ids(key):
    """A record is found by its run's id: another id, and the run would be done again."""
    profile, name, protocol = key.split()
    request = printed_records.request(name, profile, seeds=(0, 1, 2), protocol=protocol)
    lines = []
    for cell in plan(request):
        own = cell.config.run_id if cell.config else "-"
        trials = (trial.run_id for trial in cell.trials)
        row, task = cell.row.key, cell.task
        lines.append(" ".join([row, task.benchmark, task.name, str(cell.seed), own, *trials]))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == RUN_IDS[key]


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
def test_files_of_the_tables_are_the_same_bytes(rebuilt, name):
    assert (rebuilt / "out" / name).read_bytes() == (V1 / "out" / name).read_bytes()


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
    pd.testing.assert_frame_equal(new[old.columns], old)


def test_there_is_nothing_to_mark_in_old_records(rebuilt):
    for name in ("table2", "table4a"):
        cells = pd.read_csv(rebuilt / "results" / f"{name}_cells.csv")
        assert cells["mixed"].isna().all() and not (cells["outdated"] > 0).any()
