"""python -m rlrr_bench is rlrr-bench."""

import sys

from rlrr_bench.launch.cli import main

if __name__ == "__main__":
    sys.exit(main())
