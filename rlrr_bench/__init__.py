"""A benchmark-reproduction harness for RLRR (CVPR 2024): one registry of vision PEFT methods.

    rlrr_bench.methods         what is trained: apply, merge, delta
    rlrr_bench.benchmarks      what is measured: tasks, images, recipes, the trainer, records
    rlrr_bench.paper_tables    the paper's tables: specs, selection, statistics, rendering
    rlrr_bench.launch          the grid, where it runs, and the command line

In a checkout these four are folders beside this one; an installation has them inside it.
"""

from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").is_file():
    __path__.append(str(_CHECKOUT))
