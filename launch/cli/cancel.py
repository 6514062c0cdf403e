"""Cancel the waiting and running SLURM jobs of one table, and no others."""

import argparse
from pathlib import Path

from rich.console import Console

from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "cancel", __doc__, "cancel a table's SLURM jobs, no others")
    parser.set_defaults(do=do)
    parser.add_argument("--table", required=True, metavar="T", help="2, 3, 4, 5, 6 or fig2")
    flags.add_profile(parser)
    parser.add_argument("--results", type=Path, metavar="DIR", help="default results/<profile>")


def do(arguments: argparse.Namespace, console: Console) -> int:
    results = flags.results_folder(arguments)
    return cancel(results, flags.canonical(arguments.table), console)


def cancel(results: Path, table: str, console: Console) -> int:
    """Cancel a table's jobs; nothing is planned for it."""
    from ..slurm import upkeep

    count, arrays = upkeep.cancel(results, table)
    console.print(f"cancelled {count} jobs of {arrays} arrays for table {table}")
    return 0


def clean_logs(results: Path, console: Console) -> int:
    """Remove the logs of packs whose runs are all done."""
    from ..slurm import arrays, upkeep

    arrays.tidy(results)
    console.print(f"removed {upkeep.clean_logs(results)} files of packs that are done")
    return 0
