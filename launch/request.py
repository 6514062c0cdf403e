"""What a sweep was asked for, in one value: tables, places, and how to go about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..benchmarks.context import RunContext
from ..paper_tables.plan import Cell, TableRequest, plan
from .slurm.settings import Settings

Cluster = Literal["slurm", "local", "debug"]
DELTAS_MB = {"auto": 64.0, "all": float("inf"), "none": 0.0}  # what --save-deltas keeps


@dataclass(frozen=True)
class SweepRequest:
    """A table or a part of one, and where and how its runs are done.

    Attributes:
        table: as the user calls it; the paper's Table 4 is two specs.
        tables: the specs' parts that are asked for.
        data: the folder given; None: the benchmark's own, if it brings one.
        context: of the runs; its `data` is settled when they are about to begin.
        results, out: folders for records and CSVs, and for what is built from them.
        workers: on this machine; None: one a GPU, or as many as the cores are good for.
        wait: on SLURM, for the jobs.
        retry_failed: also run what failed before.
        rerun: also run what was made with another method file, other weights or pixels.
    """

    table: str
    tables: tuple[TableRequest, ...]
    results: Path
    out: Path
    context: RunContext
    settings: Settings
    cluster: Cluster = "local"
    data: Path | None = None
    workers: int | None = None
    wait: bool = True
    retry_failed: bool = False
    rerun: bool = False

    def cells(self) -> list[Cell]:
        """The cells of all its tables, in order."""
        return [cell for table in self.tables for cell in plan(table)]
