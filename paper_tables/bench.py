"""How long the tables take to build from many records, which are made up.

Writes the records of the paper's runs (as many seeds as needed) into a temporary folder and times
`rlrr-bench tables` on it, with every table and figure.
"""

import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from ..benchmarks.config import RunConfig
from ..benchmarks.record import RunRecord
from ..benchmarks.store import Results
from . import specs
from .plan import TableRequest, plan


def made_up(config: RunConfig, top1: float, **more: Any) -> RunRecord:
    """A finished run's record with this accuracy, as benchmarks/run.py makes it."""
    epochs = config.recipe.epochs
    record = RunRecord(
        run_id=config.run_id,
        status="done",
        config=config,
        top1_last=top1,
        top1_best_test=top1 + 0.5 if config.eval_every else None,
        top1_val=None,
        curve=tuple({"epoch": i + 1, "lr": 1e-3, "loss": 1 / (i + 1)} for i in range(epochs)),
        params_peft=288_768,
        params_head=76_900,
        params_total=365_668,
        seconds_startup=1.5,
        seconds_data=0.5,
        seconds_train=100.0,
        seconds_evaluate=5.0,
        images_per_second=1000.0,
        peak_memory_mb=4096.0,
        gflops_per_image=35.1,
        data_fingerprint="made-up",
        data_variant="jpg",
        weights_fingerprint="made-up",
        weights_source="made-up",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        micro_batch=config.recipe.batch_size,
        fast_paths=("own products", "merged scoring"),
        precision="bf16",
        seconds_total=107.0,
        started="2024-06-17T10:00:00+00:00",
        ended="2024-06-17T10:01:47+00:00",
        git_commit="0" * 40,
        git_dirty=False,
        version="0.2.0",
        code="0" * 12,
        python="3.11",
        torch="2.6.0",
        timm="1.0.21",
        device="cuda made-up",
        threads=8,
        host="made-up",
    )
    return record.replace(**more)


def fill(folder: Path, records: int) -> None:
    """Write `records` records of the paper's runs, seed by seed."""
    results, chance = Results(folder), random.Random(0)
    results.runs.mkdir(parents=True)
    profile = specs.profile("paper")
    written: set[str] = set()
    for seed in count():
        for name in specs.every():
            for cell in plan(TableRequest(specs.spec(name), profile, seeds=(seed,))):
                if len(written) == records:
                    return
                if cell.config and cell.config.run_id not in written:
                    written.add(cell.config.run_id)
                    record = made_up(cell.config, chance.uniform(40, 90))
                    results.path(record.run_id).write_text(record.to_json())


def measure(records: int) -> str:
    """Time building all tables from so many records; a line to print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "results", records)
        began = time.perf_counter()
        command = [sys.executable, "-m", "rlrr_bench", "tables", "--profile", "paper"]
        command += ["--results", str(folder / "results"), "--out", str(folder / "out")]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    return f"tables: {records} records in {seconds:.1f} s ({cpu:.1f} s of one core)"
