"""What is measured: tasks, images, backbones, recipes, the one trainer, one run and its record."""

if __name__ == "benchmarks":  # a second copy of every class, which is not the first one's equal
    raise ImportError("this folder is rlrr_bench.benchmarks: import that, or type rlrr-bench")
