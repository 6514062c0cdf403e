"""Typing the command: as a process of its own, or in this one, which is much faster."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

from rlrr_bench.benchmarks import provenance
from rlrr_bench.launch import cli

ROOT = Path(__file__).resolve().parents[2]
SWEEP = [sys.executable, str(ROOT / "launch" / "sweep.py")]


def sweep(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return subprocess.run([*SWEEP, *words], capture_output=True, text=True, cwd=cwd, timeout=300)


def typed(*words: str) -> subprocess.CompletedProcess[str]:
    """In this process, as if it were a new one; runs are done in it too."""
    provenance.at_start.cache_clear()
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = cli.main(["sweep", *words, "--cluster", "debug"])
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), error.getvalue())
