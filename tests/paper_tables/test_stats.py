"""The statistics against SciPy and statsmodels called directly, and by hand."""

import numpy as np
import pandas as pd
import printed_records
import pytest
from scipy.stats import friedmanchisquare, wilcoxon
from statsmodels.stats.multitest import multipletests

from rlrr_bench.benchmarks.store import Results
from rlrr_bench.paper_tables import output, specs, stats
from rlrr_bench.paper_tables.bench import made_up
from rlrr_bench.paper_tables.plan import plan
from rlrr_bench.paper_tables.records import scan
from rlrr_bench.paper_tables.table import build, printed_numbers


@pytest.fixture(scope="module")
def table2(paper_records):
    return output.whole(["table2"], specs.profile("paper"), scan(paper_records))[0]


def test_pairs_are_scipys_with_holm_of_statsmodels(table2):
    pairs = stats.pairs(table2)
    printed = printed_numbers(specs.spec("table2"))
    columns = [column for row, column in printed if row == "rlrr"]
    columns = [c for c in columns if not c.startswith("mean") and c != "params_m"]
    assert len(columns) == 19
    for source in ("ours", "printed"):
        own = pairs[(pairs["source"] == source) & (pairs["rows"] == "main")]
        assert len(own) == 11 * 10 // 2
        for pair in own.itertuples():
            a, b = ([printed[row, c] for c in columns] for row in (pair.a, pair.b))
            difference = np.round(np.subtract(a, b), 9)
            expected = wilcoxon(difference)
            assert pair.p == pytest.approx(expected.pvalue, rel=1e-12)
            assert pair.statistic == expected.statistic
            assert pair.mean_difference == pytest.approx(difference.mean())
            assert (pair.wins, pair.losses) == ((difference > 0).sum(), (difference < 0).sum())
        expected = multipletests(own["p"], method="holm")[1]
        np.testing.assert_allclose(own["p_holm"], expected, rtol=1e-12)
    assert set(pairs["tasks"]) == {19} and set(pairs["least_p"]) == {2.0**-18}
    assert set(pairs.loc[pairs["source"] == "ours", "seeds"]) == {3}
    augreg = pairs[pairs["rows"] == "augreg"]
    assert set(augreg["a"]) | set(augreg["b"]) == {"ssf", "arc-augreg", "rlrr-augreg"}


def test_equal_rows_do_not_differ():
    line = stats._pair(pd.Series([1.0, 2.0]), pd.Series([1.0, 2.0]))
    assert (line["p"], line["statistic"], line["wins"], line["losses"]) == (1.0, 0.0, 0, 0)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0] and stats.holm([]) == []


def test_mean_ranks_are_those_of_friedmans_test(table2):
    """Friedman's statistic from our mean ranks equals SciPy's (which corrects for ties)."""
    scores = table2.by_task("ours").drop(index=["ssf", "arc-augreg", "rlrr-augreg"])
    ranks = stats.mean_ranks(scores)
    k, n = scores.shape
    plain = 12 * n / (k * (k + 1)) * ((ranks - (k + 1) / 2) ** 2).sum()
    ties = sum(t**3 - t for c in scores for t in scores[c].round(9).value_counts())
    expected = friedmanchisquare(*scores.round(9).to_numpy()).statistic
    assert plain / (1 - ties / (n * k * (k**2 - 1))) == pytest.approx(expected)
    assert ranks.idxmin() == "rlrr" and ranks.sum() == pytest.approx(k * (k + 1) / 2)


def test_optimism_weighs_tasks_alike(tmp_path):
    """Two tasks, one with a seed missing: (1 + 3) / 2, not the mean over the three runs."""
    results = Results(tmp_path)
    request = printed_records.request(
        *("table2", "paper"),
        rows=("linear",),
        tasks=("cifar", "dtd"),
        seeds=(0, 1),
        protocol="best_test",
    )
    for cell in plan(request):
        if (cell.task.name, cell.seed) != ("dtd", 1):
            gain = 1.0 if cell.task.name == "cifar" else 3.0
            results.write(made_up(cell.config, 50.0, top1_best_test=50.0 + gain))
    records = scan(tmp_path)
    line = stats.optimism(build(request, records), records).iloc[0]
    assert (line["runs"], line["tasks"], line["last"]) == (3, 2, 50.0)
    assert line["optimism"] == pytest.approx(2.0)


def test_optimism_of_every_tenth_epoch_beside_the_published_one(tmp_path):
    results = Results(tmp_path)
    rows = ("full", "linear", "vpt-deep", "vpt-shallow", "lora")
    part = {"rows": rows, "tasks": ("cifar",), "seeds": (0,), "protocol": "best_test"}
    request = printed_records.request("table2", **part)
    for cell in plan(request):
        scores = {"top1_best_10": 51.0, "top1_best_test": 53.0}
        results.write(made_up(cell.config, 50.0, **scores))
    records = scan(tmp_path)
    lines = stats.optimism(build(request, records), records).set_index("row")
    assert set(lines["optimism_10"]) == {1.0} and set(lines["optimism"]) == {3.0}
    published = {"full": 7.4, "linear": 0.29, "vpt-deep": 1.51, "vpt-shallow": 0.63, "lora": 0.63}
    assert lines["published"].to_dict() == published
    assert set(lines.loc[["vpt-shallow", "lora"], "published_of"]) == {"mean of 15 methods"}
    assert set(lines.loc[["full", "vpt-deep"], "published_of"]) == {"this method"}
    for name, profile in (("table3", "paper"), ("table4a", "paper"), ("table2", "demo")):
        other = printed_records.request(name, profile, rows=("linear",), protocol="best_test")
        assert stats.optimism(build(other, records), records)["published"].isna().all(), name


def test_costs_are_apart_by_device(tmp_path):
    results = Results(tmp_path)
    request = printed_records.request("table3", rows=("linear",))
    for i, cell in enumerate(plan(request)):
        more = {"seconds_train": float(i), "peak_memory_mb": 100.0 + i}
        results.write(made_up(cell.config, 50.0, device=f"cuda {i % 2}", **more))
    records = scan(tmp_path)
    costs = stats.costs(build(request, records), records).set_index("device")
    assert costs["runs"].to_dict() == {"cuda 0": 8, "cuda 1": 7}
    assert costs["seconds_train"].to_dict() == {"cuda 0": 7.0, "cuda 1": 7.0}
    assert costs["peak_memory_mb"].to_dict() == {"cuda 0": 114.0, "cuda 1": 113.0}
