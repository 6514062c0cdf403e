"""What is done, running, queued, failed and missing of a table; why jobs wait, why runs failed."""

import argparse

from rich.console import Console

from ..request import SweepRequest
from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "status", __doc__, "what is done, running, failed and missing")
    parser.set_defaults(do=do)
    flags.add_selection(parser)
    parser.add_argument("--results", type=flags.Path, metavar="DIR", help="results/<profile>")
    parser.add_argument("--watch", action="store_true", help="again, until nothing is left")
    flags.add_slurm(parser)


def do(arguments: argparse.Namespace, console: Console) -> int:
    plugins = flags.add_plugins(arguments.plugin)
    results = flags.results_folder(arguments)
    request = SweepRequest(
        table=flags.canonical(arguments.table),
        tables=flags.tables(arguments),
        results=results,
        out=results,
        context=flags.RunContext(plugins=plugins),
        settings=flags.settings(arguments),
    )
    return show(request, arguments.watch, console)


def show(request: SweepRequest, watch: bool, console: Console) -> int:
    """Print the status, once or until nothing runs or waits any more."""
    from .. import runner, status
    from ..grid import Grid

    cells = request.cells()
    if watch:
        status.watch(request.results, cells, request.settings, console)
        return 0
    grid = Grid.survey(request.results, cells)
    status.show(grid, request.settings, console)
    runner.tell_outdated(grid, grid.outdated_code, console, rerun=False)
    return 0
