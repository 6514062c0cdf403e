"""Reads the benchmarks' folders and decodes every image once. Nothing here needs torch.

lists.py    the layouts: which images a split has, and their labels
decode.py   from an image file to pixels
cache.py    decoded pixels on disk, shared by all runs and processes
check.py    `rlrr-bench data check DIR`
"""

from .cache import Split, current_fingerprint, open_split
from .decode import View
from .lists import FILES, DataError, Listing, check_files, read_list
from .rows import Images

__all__ = [
    "FILES",
    "DataError",
    "Images",
    "Listing",
    "Split",
    "View",
    "check_files",
    "current_fingerprint",
    "open_split",
    "read_list",
]
