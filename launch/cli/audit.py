"""Count the trained parameters of every row of Tables 2-6 and compare with the printed ones.

Verdicts:
  equal                     to two decimals, with options known from code or published figures
  equal, solved backwards   to two decimals, with options found from the printed number itself
  differs                   by how much, and what is likely behind it
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(
        commands, "audit", __doc__, "count parameters and compare with the printed ones"
    )
    parser.set_defaults(do=do)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the lines there as well")


def do(arguments: argparse.Namespace, console: Console) -> int:
    from ...benchmarks.files import write_text
    from ...paper_tables import audit

    lines = audit.audit()
    audit.show(lines, Console(highlight=False, width=None if sys.stdout.isatty() else 150))
    if arguments.csv:
        write_text(arguments.csv, audit.csv_text(lines))
    return 0
