"""How the grid does with 20,000 runs: seconds to plan, to tell the status, to collect; memory.

Synthetic records of Table 2 with many seeds, in a temporary folder; nothing is trained.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..benchmarks.store import Results
from ..paper_tables import specs
from ..paper_tables.bench import made_up
from ..paper_tables.plan import TableRequest, plan
from .grid import unique

LIMITS = {"plan": 2.0, "status": 2.0, "collect to CSV": 5.0}  # seconds on two cores

# What the end of a sweep does, apart from printing.
COLLECT = """
import sys
from pathlib import Path
from ..paper_tables import build, specs
from ..paper_tables.records import scan
folder, seeds = Path(sys.argv[1]), [int(seed) for seed in sys.argv[2].split(",")]
profile, spec = specs.profile("paper"), specs.load("table2")
table = build.build(specs.plan(spec, profile, seeds=seeds), scan(folder), profile, "recipe")
build.write_results(table, folder)
"""


def timed(command: list[str]) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of the processor, and peak memory in MB of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with status {status}")
    busy = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - start, busy, usage.ru_maxrss / 1024


def measure(count: int) -> Iterator[str]:
    """Time planning, status and collecting of about so many runs; lines to print."""
    profile, spec = specs.profile("paper"), specs.spec("table2")
    a_seed = len(unique(plan(TableRequest(spec, profile, seeds=(0,)))))
    seeds = tuple(range(-(-count // a_seed)))
    configs = unique(plan(TableRequest(spec, profile, seeds=seeds)))
    with tempfile.TemporaryDirectory(prefix="grid-") as folder:
        results = Results(Path(folder))
        results.runs.mkdir()
        words = ["--table", "2", "--seeds", ",".join(map(str, seeds)), "--results", folder]
        sweep = [sys.executable, "-m", "rlrr_bench", "sweep", *words]
        took = {"plan": timed([*sweep, "--cluster", "slurm", "--dry-run"])}
        for config in configs.values():
            record = made_up(config, 70.0 + config.seed % 7)
            results.path(config.run_id).write_text(record.to_json())
        took["status"] = timed([*sweep, "--status"])
        took["plan, all done"] = timed([*sweep, "--cluster", "slurm", "--dry-run"])
        took["collect to CSV"] = timed(
            [sys.executable, "-c", COLLECT, folder, ",".join(map(str, seeds))]
        )
    yield f"{len(configs)} runs of Table 2, {os.cpu_count()} cores"
    for name, (seconds, busy, memory) in took.items():
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"  <= {limit:.0f} s: "
        verdict += "" if limit is None else "met" if seconds <= limit else "missed"
        yield f"{name:15} {seconds:5.2f} s, {busy:5.2f} s of CPU, {memory:4.0f} MB{verdict}"
