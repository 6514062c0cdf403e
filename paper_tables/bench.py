"""How long the tables take: python -m paper_tables.bench [--records 20000].

Writes that many made-up records of the paper's runs (as many seeds as needed) into a temporary
folder and times `python -m paper_tables.build` on it, with every table and figure.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.config import RunConfig
from benchmarks.record import SCHEMA, Results

from . import specs


def made_up(config: RunConfig, top1: float, **more: Any) -> dict[str, Any]:
    """A finished run's record with this accuracy, as benchmarks/run.py writes it."""
    epochs = config.recipe.epochs
    return {
        "schema": SCHEMA,
        "run_id": config.run_id,
        "status": "done",
        "error": None,
        "config": config.to_dict(),
        "top1_last": top1,
        "top1_best_test": top1 + 0.5 if config.eval_every else None,
        "top1_val": None,
        "curve": [{"epoch": i + 1, "lr": 1e-3, "loss": 1 / (i + 1)} for i in range(epochs)],
        "params_peft": 288_768,
        "params_head": 76_900,
        "params_total": 365_668,
        "seconds_startup": 1.5,
        "seconds_data": 0.5,
        "seconds_train": 100.0,
        "seconds_evaluate": 5.0,
        "images_per_second": 1000.0,
        "peak_memory_mb": 4096.0,
        "gflops_per_image": 35.1,
        "data_fingerprint": "made-up",
        "data_variant": "jpg",
        "weights_fingerprint": "made-up",
        "weights_source": "made-up",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "micro_batch": config.recipe.batch_size,
        "fast_paths": ["own products", "merged scoring"],
        "precision": "bf16",
        "seconds_total": 107.0,
        "started": "2024-06-17T10:00:00+00:00",
        "ended": "2024-06-17T10:01:47+00:00",
        "git_commit": "0" * 40,
        "git_dirty": False,
        "python": "3.11",
        "torch": "2.6.0",
        "timm": "1.0.21",
        "device": "cuda made-up",
        "threads": 8,
        "host": "made-up",
        "slurm_job_id": None,
        **more,
    }


def fill(folder: Path, records: int) -> None:
    """Write `records` records of the paper's runs, seed by seed."""
    results, chance = Results(folder), random.Random(0)
    results.runs.mkdir(parents=True)
    names = [name for own in specs.TABLES.values() for name in own]
    profile = specs.profile("paper")
    written: set[str] = set()
    for seed in count():
        for name in names:
            for cell in specs.plan(specs.load(name), profile, seeds=[seed]):
                if len(written) == records:
                    return
                if cell.config and cell.config.run_id not in written:
                    written.add(cell.config.run_id)
                    record = made_up(cell.config, chance.uniform(40, 90))
                    results.path(record["run_id"]).write_text(json.dumps(record, indent=1))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m paper_tables.bench", description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "results", arguments.records)
        began = time.perf_counter()
        command = [sys.executable, "-m", "paper_tables.build", "--profile", "paper"]
        command += ["--results", str(folder / "results"), "--out", str(folder / "out")]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"tables: {arguments.records} records in {seconds:.1f} s ({cpu:.1f} s of one core)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
