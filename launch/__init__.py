"""The grid, and where it runs. Nothing here imports torch; workers and jobs do."""

if __name__ == "launch":  # a second copy of every class, which is not the first one's equal
    raise ImportError("this folder is rlrr_bench.launch: import that, or type rlrr-bench")
