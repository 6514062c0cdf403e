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

from benchmarks.record import Results
from paper_tables import specs
from paper_tables.bench import made_up

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
            record = made_up(config, 70.0 + config.seed % 7)
            results.path(config.run_id).write_text(json.dumps(record, indent=1) + "\n")
        took["status"] = timed([*sweep, "--status"])
        took["plan, all done"] = timed([*sweep, "--cluster", "slurm", "--dry-run"])
        took["collect to CSV"] = timed(
            [sys.executable, "-c", COLLECT, folder, ",".join(map(str, seeds))]
        )
    print(f"{len(configs)} runs of Table 2, {os.cpu_count()} cores")
    for name, (seconds, busy, memory) in took.items():
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"  <= {limit:.0f} s: "
        verdict += "" if limit is None else "met" if seconds <= limit else "missed"
        print(f"{name:15} {seconds:5.2f} s, {busy:5.2f} s of CPU, {memory:4.0f} MB{verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
