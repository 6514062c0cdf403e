"""Build every table and figure from the records.

rlrr-bench tables                              all tables of all profiles (make tables)
rlrr-bench tables --table 2 --view compare     one, shown in the terminal too
rlrr-bench tables --why 2 RLRR CIFAR-100       the runs, recipe and options behind a cell
"""

import argparse

from rich.console import Console

from ...methods.errors import ConfigError
from ...paper_tables import specs
from ...paper_tables.plan import TableRequest
from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "tables", __doc__, "build tables and figures from the records")
    parser.set_defaults(do=do)
    parser.add_argument("--table", metavar="T", help="default: all (written, not shown)")
    parser.add_argument(
        "--view", choices=("ours", "printed", "compare"), default="compare", help="what is shown"
    )
    parser.add_argument("--profile", help="default: all of them; with --why, paper")
    flags.add_protocol(parser)
    flags.add_folders(parser)
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py")
    parser.add_argument("--committed", action="store_true", help="leave out runs marked †")
    parser.add_argument("--why", nargs=3, metavar=("T", "ROW", "COLUMN"), help="trace a cell")


def do(arguments: argparse.Namespace, console: Console) -> int:
    flags.add_plugins(arguments.plugin)
    if arguments.why:
        arguments.profile = arguments.profile or "paper"
        return why(arguments, console)
    names = specs.named(arguments.table) if arguments.table else None
    for profile in _profiles(arguments):
        arguments.profile = profile
        build(arguments, names, console)
    return 0


def _profiles(arguments: argparse.Namespace) -> list[str]:
    if not arguments.profile and (arguments.results or arguments.out):
        raise ConfigError("--results and --out need --profile: one folder, one profile")
    return [arguments.profile] if arguments.profile else specs.profiles()


def why(arguments: argparse.Namespace, console: Console) -> int:
    """Print the story of one cell."""
    from ...paper_tables.records import scan
    from ...paper_tables.why import why as story

    table, row, column = arguments.why
    names = specs.named(table)
    if len(names) > 1:
        raise ConfigError(f"--why: {table} is {' and '.join(names)}; name one of them")
    request = TableRequest(
        spec=specs.spec(names[0]),
        profile=specs.profile(arguments.profile),
        rows=(row,),
        protocol=arguments.protocol,
    )
    records = scan(flags.results_folder(arguments))
    records = records.without_dirty() if arguments.committed else records
    console.print(story(request, column, records), markup=False, soft_wrap=True)
    return 0


def build(arguments: argparse.Namespace, names: tuple[str, ...] | None, console: Console) -> None:
    """Build one profile's tables and say what is there and what is not."""
    from ...paper_tables import output, views
    from ...paper_tables.records import scan

    profile = specs.profile(arguments.profile)
    out = flags.out_folder(arguments)
    records = scan(flags.results_folder(arguments))
    records = records.without_dirty() if arguments.committed else records
    built = output.whole(names or specs.every(), profile, records, arguments.protocol)
    console.print(
        f"[bold]{profile.name}[/bold]  {len(records.done)} runs in {records.folder}", soft_wrap=True
    )
    output.tell(records, console)
    if names is None:
        output.write_everything(built, records, out)
    for table in built:
        if names is not None:
            output.write(table, out)
            output.write_results(table, records.folder)
        console.print(output.summary(table), markup=False)
        if names is not None:
            view = arguments.view if arguments.view in views.available(table) else "ours"
            views.show(views.sheet(table, view), console)
    console.print(f"in {out} and {records.folder}\n", soft_wrap=True)
