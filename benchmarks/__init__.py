"""What is measured: tasks, images, backbones, recipes, the one trainer, one run and its record."""

if __name__ == "benchmarks":  # would be a second copy of every class, unequal to the first
    raise ImportError("this folder is rlrr_bench.benchmarks: import that, or type rlrr-bench")
