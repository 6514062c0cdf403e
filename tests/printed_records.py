"""Records made from the paper's printed cells, so that our tables can be held against the paper."""

import json
from pathlib import Path

from rlrr_bench.benchmarks.record import Results
from rlrr_bench.paper_tables import specs
from rlrr_bench.paper_tables.bench import made_up
from rlrr_bench.paper_tables.table import printed_numbers

NAMES = ("table2", "table3", "table4a", "table4b", "table5", "table6")


def write(folder: Path, name: str, seeds: tuple[int, ...] = (0, 1, 2), **more) -> int:
    """Write a record for every run of a table, with the accuracy and parameters printed there.

    Where only group means are printed (Tables 4 and 5) every task of a group gets its mean. Records
    that are there already stay: tables share runs. Returns how many runs the table has.
    """
    results, spec = Results(folder), specs.load(name)
    results.runs.mkdir(parents=True, exist_ok=True)
    printed = printed_numbers(spec)
    cells = specs.plan(spec, specs.profile("paper"), seeds=seeds)
    for cell in cells:
        row, task = cell.row.key, cell.task
        top1 = printed.get((row, task.name))
        if top1 is None:
            top1 = printed[row, f"mean_{task.group}"]
        millions = printed[row, "params_m"]
        head = 0 if cell.row.params == "trainable" else 38_044
        counted = round(millions * 1e6)
        record = made_up(cell.config, top1, curve=[], **more)
        record |= {"params_peft": counted, "params_head": head, "params_total": counted + head}
        path = results.path(record["run_id"])
        if not path.exists():
            path.write_text(json.dumps(record))
    return len(cells)


def write_figure(folder: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Records for Fig. 2 whose accuracy grows with the number of layers; not the paper's."""
    results = Results(folder)
    results.runs.mkdir(parents=True, exist_ok=True)
    step = {"MHA": 1.0, "FFN": 0.9, "LayerNorm": 0.6, "All": 1.3}
    for cell in specs.plan(specs.load("fig2"), specs.profile("paper"), seeds=seeds):
        layers = int(cell.config.options["layers"].partition(":")[2])
        top1 = 60 + step[cell.row.group] * layers + 0.4 * (cell.seed - 1)
        record = made_up(cell.config, top1, curve=[])
        results.path(record["run_id"]).write_text(json.dumps(record))
