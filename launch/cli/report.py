"""Write one HTML page about a profile's results: tables, plots, tests, costs, what is missing.

It is self-contained: no network, no other file.
"""

import argparse
from pathlib import Path

from rich.console import Console

from ...methods.errors import ConfigError
from ...paper_tables import specs
from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "report", __doc__, "write one HTML page about the results")
    parser.set_defaults(do=do)
    parser.add_argument("--profile", help="default: all of them")
    parser.add_argument("--results", type=Path, metavar="DIR", help="default results/<profile>")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default paper_tables/out/<profile>/report.html"
    )
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py")


def do(arguments: argparse.Namespace, console: Console) -> int:
    from ...benchmarks.files import write_text
    from ...paper_tables.records import scan
    from ...paper_tables.report import render

    flags.add_plugins(arguments.plugin)
    if not arguments.profile and (arguments.results or arguments.out):
        raise ConfigError("--results and --out need --profile: one folder, one profile")
    for name in [arguments.profile] if arguments.profile else specs.profiles():
        profile = specs.profile(name)
        records = scan(arguments.results or flags.RESULTS / name)
        path = arguments.out or flags.OUT / name / "report.html"
        write_text(path, render(profile, records))
        size = path.stat().st_size / 1e6
        console.print(f"{path}  {size:.1f} MB", markup=False, soft_wrap=True)
    return 0
