"""The paper: its printed numbers, the specs of its tables, selection, statistics and rendering."""

if __name__ == "paper_tables":  # a second copy of every class, which is not the first one's equal
    raise ImportError("this folder is rlrr_bench.paper_tables: import that, or type rlrr-bench")
