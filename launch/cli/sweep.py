"""Run what is missing of a table, then build it.

    rlrr-bench sweep --table 2 --profile demo     the demo: minutes on a laptop
    rlrr-bench sweep --table 2 --data DIR         the paper's: ViT-B/16 on VTAB-1k under DIR

Typing the same command again goes on where it was left: a run with a record is never done twice.
`python launch/sweep.py` in a checkout is the same command.
"""

import argparse

from rich.console import Console

from ..request import SweepRequest
from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "sweep", __doc__, "run what is missing of a table, then build it")
    parser.set_defaults(do=do, stopped="stopped; the same command goes on from here")
    flags.add_selection(parser)
    flags.add_context(parser)
    flags.add_folders(parser)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--workers", type=flags.positive, metavar="N", help="default: one a GPU, or the cores"
    )
    how.add_argument(
        "--cluster",
        default="auto",
        choices=("auto", "slurm", "local", "debug"),
        help="auto: SLURM where it is set up, else this machine; debug: in this process",
    )
    how.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on SLURM: wait for the jobs and build the table (default), or return at once",
    )
    how.add_argument("--retry-failed", action="store_true", help="also run what failed before")
    how.add_argument(
        "--rerun",
        action="store_true",
        help="also run what was made with another method file, weights or pixels; "
        "the old records are kept aside",
    )
    other = parser.add_argument_group("instead of running")
    other.add_argument("--dry-run", action="store_true", help="list what would run")
    other.add_argument("--status", action="store_true", help="done, running, failed, missing")
    other.add_argument("--watch", action="store_true", help="the status until nothing is left")
    other.add_argument("--cancel", action="store_true", help="cancel this table's jobs, no others")
    other.add_argument(
        "--clean-logs", action="store_true", help="remove logs of runs that are done"
    )
    flags.add_slurm(parser)


def do(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.cancel or arguments.clean_logs:
        results, table = flags.results_folder(arguments), flags.canonical(arguments.table)
        from . import cancel

        if arguments.cancel:
            return cancel.cancel(results, table, console)
        return cancel.clean_logs(results, console)
    request = flags.sweep_request(arguments)
    if arguments.dry_run:
        return dry_run(request, console)
    if arguments.status or arguments.watch:
        from .status import show

        return show(request, arguments.watch, console)
    return run(request, console)


def dry_run(request: SweepRequest, console: Console) -> int:
    """List what would run and what it would cost."""
    from .. import runner, status, view
    from ..grid import Followers, Grid
    from ..machine import default_workers

    cells = request.cells()
    grid = Grid.survey(request.results, cells)
    runner.tell_outdated(grid, grid.outdated_code, console, rerun=request.rerun)
    todo = grid.to_do(request.retry_failed)
    again = [grid.configs[run_id] for run_id in grid.outdated_code] if request.rerun else []
    followers = Followers(grid, todo)
    new = [config for config in [*todo, *again] if grid.states[config.run_id] != "queued"]
    estimate, _ = grid.estimator(request.settings.prior)
    view.print_plan(grid.cells, new, grid.states, estimate, console)
    ready, likely = len(grid.of("done")) - len(again), followers.likely()
    queued = f" {len(todo) + len(again) - len(new)} queued," if len(new) < len(todo) else ""
    follow = f", {len(likely)} to follow" if likely else ""
    runs = len(grid.configs) + len(likely)
    console.print(
        f"\n{len(cells)} cells, {runs} runs; {ready} done,{queued} {len(new)} to do{follow}"
    )
    if request.rerun:
        console.print("weights and pixels are compared when the sweep runs, not here")
    at_once = request.workers or default_workers()
    lines = status.forecast(grid, [*new, *likely], request.settings, request.cluster, at_once)
    for line in lines:
        console.print(line, highlight=False)
    return 0


def run(request: SweepRequest, console: Console) -> int:
    """Do what is missing, then build the tables and print them."""
    from ...benchmarks import provenance

    provenance.at_start()
    # now, not when the runs are done: the code may be edited while this command waits for them
    from ...paper_tables import figures, latex, output, records, stats, table, views  # noqa: F401
    from ..execution import short
    from ..runner import run as see_through

    outcome = see_through(request, console)
    if not outcome.waited:
        return 0
    scanned = records.scan(request.results)
    output.tell(scanned, console, quiet=True)
    for part in request.tables:
        cells = [cell for cell in outcome.grid.cells if cell.spec is part.spec]
        built = table.build(part, scanned, cells=cells, outdated=outcome.outdated)
        views.show(views.sheet(built, "ours"), console)
        output.write(built, request.out)
        output.write_results(built, request.results)
        name = built.name
        if name != part.spec.name:
            console.print(f"  a part of {part.spec.name}, so its files are called {name}")
        written = f"{short(request.out / name)}.tex, .md, .csv"
        console.print(f"  {written}; {short(request.results / name)}.csv", soft_wrap=True)
    return outcome.exit_code
