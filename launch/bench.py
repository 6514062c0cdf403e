"""How the grid does with 20,000 runs: seconds to plan, to tell the status, to collect; memory.

    python -m launch.bench [--runs N]

Synthetic records of Table 2 with many seeds, in a temporary folder; nothing is trained.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import tasks
from benchmarks.config import RunConfig
from benchmarks.record import SCHEMA, Results
from paper_tables import specs

from .grid import unique

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"plan": 2.0, "status": 2.0, "collect to CSV": 5.0}  # seconds on two cores

# What the end of a sweep does, apart from printing.
COLLECT = """
import sys
from pathlib import Path
from paper_tables import build, specs
from paper_tables.records import scan
folder, seeds = Path(sys.argv[1]), [int(seed) for seed in sys.argv[2].split(",")]
profile, spec = specs.profile("paper"), specs.load("table2")
table = build.build(specs.plan(spec, profile, seeds=seeds), scan(folder), profile, "recipe")
build.write_results(table, folder)
"""


def record(config: RunConfig, epochs: int = 100) -> dict:
    """A record as long as a real one."""
    curve = [{"epoch": e, "lr": 1e-3 / (e + 1), "loss": 1 / (e + 1)} for e in range(epochs)]
    return {
        "schema": SCHEMA,
        "run_id": config.run_id,
        "status": "done",
        "error": None,
        "config": config.to_dict(),
        "top1_last": 70.0 + config.seed % 7,
        "top1_best_test": None,
        "top1_val": None,
        "curve": curve,
        "params_peft": 300_000,
        "params_head": 7690 * tasks.get(config.benchmark, config.task).num_classes // 10,
        "params_total": 86_000_000,
        "seconds_train": 100.0,
        "data_fingerprint": "0123456789abcdef+0123456789abcdef",
        "weights_fingerprint": "0" * 64,
        "git_commit": "0" * 40,
        "git_dirty": False,
        "seconds_total": 120.0,
    }


def timed(command: list[str]) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of the processor, and peak memory in MB of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with status {status}")
    busy = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - start, busy, usage.ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    count = parser.parse_args().runs
    profile, spec = specs.profile("paper"), specs.load("table2")
    a_seed = len(unique(specs.plan(spec, profile, seeds=[0])))
    seeds = list(range(-(-count // a_seed)))
    configs = unique(specs.plan(spec, profile, seeds=seeds))
    with tempfile.TemporaryDirectory(prefix="grid-") as folder:
        results = Results(Path(folder))
        results.runs.mkdir()
        sweep = [sys.executable, str(ROOT / "launch" / "sweep.py"), "--table", "2"]
        sweep += ["--seeds", ",".join(map(str, seeds)), "--results", folder]
        took = {"plan": timed([*sweep, "--cluster", "slurm", "--dry-run"])}
        for config in configs.values():
            results.path(config.run_id).write_text(json.dumps(record(config), indent=1) + "\n")
        took["status"] = timed([*sweep, "--status"])
        took["plan, all done"] = timed([*sweep, "--cluster", "slurm", "--dry-run"])
        took["collect to CSV"] = timed(
            [sys.executable, "-c", COLLECT, folder, ",".join(map(str, seeds))]
        )
    print(f"{len(configs)} runs of Table 2, {os.cpu_count()} cores")
    for name, (seconds, busy, memory) in took.items():
        limit = f" (limit {LIMITS[name]:.0f} s)" if name in LIMITS else ""
        print(f"{name:15} {seconds:5.2f} s{limit:12}, {busy:5.2f} s of CPU, {memory:4.0f} MB")
    return int(any(took[name][0] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
