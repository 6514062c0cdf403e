"""Records made from the paper's printed cells, so that our tables can be held against the paper."""

from collections.abc import Iterable
from pathlib import Path

from rlrr_bench.benchmarks.record import RunRecord
from rlrr_bench.benchmarks.store import Results
from rlrr_bench.paper_tables import specs
from rlrr_bench.paper_tables.bench import made_up
from rlrr_bench.paper_tables.plan import TableRequest, plan
from rlrr_bench.paper_tables.table import printed_numbers

NAMES = ("table2", "table3", "table4a", "table4b", "table5", "table6")


def request(name: str, profile: str = "paper", **more) -> TableRequest:
    """A part of a table; `more` are TableRequest's own fields."""
    return TableRequest(specs.spec(name), specs.profile(profile), **more)


def write(folder: Path, name: str, seeds: tuple[int, ...] = (0, 1, 2), **more) -> int:
    """Write a record for every run of a table, with the accuracy and parameters printed there.

    Where only group means are printed (Tables 4 and 5) every task of a group gets its mean. Records
    that are there already stay: tables share runs. Returns how many runs the table has.
    """
    cells = plan(request(name, seeds=seeds))
    printed = printed_numbers(specs.spec(name))
    records = []
    for cell in cells:
        row, task = cell.row.key, cell.task
        top1 = printed.get((row, task.name))
        if top1 is None:
            top1 = printed[row, f"mean_{task.group}"]
        head = 0 if cell.row.params == "trainable" else 38_044
        counted = round(printed[row, "params_m"] * 1e6)
        params = {"params_peft": counted, "params_head": head, "params_total": counted + head}
        records.append(made_up(cell.config, top1, curve=(), **params, **more))
    put(folder, records)
    return len(cells)


def write_figure(folder: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Records for Fig. 2 whose accuracy grows with the number of layers; not the paper's."""
    step = {"MHA": 1.0, "FFN": 0.9, "LayerNorm": 0.6, "All": 1.3}
    records = []
    for cell in plan(request("fig2", seeds=seeds)):
        layers = int(cell.config.options["layers"].partition(":")[2])
        top1 = 60 + step[cell.row.group] * layers + 0.4 * (cell.seed - 1)
        records.append(made_up(cell.config, top1, curve=()))
    put(folder, records)


def put(folder: Path, records: Iterable[RunRecord]) -> None:
    """Write records that are not there yet; plainly, for `Results.write` waits for the disk."""
    results = Results(folder)
    results.runs.mkdir(parents=True, exist_ok=True)
    for record in records:
        path = results.path(record.run_id)
        if not path.exists():
            path.write_text(record.to_json())
