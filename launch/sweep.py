"""`python launch/sweep.py ...` in a checkout is `rlrr-bench sweep ...`, installed or not."""

import sys
from pathlib import Path

if __name__ == "__main__":  # workers import this file too, and need nothing of it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from rlrr_bench.launch.cli import main

    sys.exit(main(["sweep", *sys.argv[1:]]))
