"""Run what is missing of a table, then build it.

    python launch/sweep.py --table 2 --profile demo     the demo: minutes on a laptop
    python launch/sweep.py --table 2 --data DIR         the paper's: ViT-B/16 on VTAB-1k under DIR

Typing the same command again goes on where it was left: a run with a record is never done twice.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # so that `python launch/sweep.py` works as it stands
    sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

import methods  # noqa: E402
from benchmarks import data, recipes, tasks  # noqa: E402
from benchmarks.config import ConfigError, RunConfig  # noqa: E402
from benchmarks.record import Results  # noqa: E402
from launch import packs, slurm, status, upkeep, view  # noqa: E402
from launch import settings as cluster_settings  # noqa: E402
from launch.claims import Claims, filesystem_time  # noqa: E402
from launch.cluster import Local, More, default_workers  # noqa: E402
from launch.grid import Second, survey  # noqa: E402
from methods.registry import InputError, nearest  # noqa: E402
from paper_tables import specs  # noqa: E402

DEMO_DATA = ROOT / "data"
DELTAS_MB = {"auto": 64.0, "all": float("inf"), "none": 0.0}  # what --save-deltas keeps


def parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="sweep.py", description=__doc__, formatter_class=text)
    p.add_argument("--table", required=True, help="2, 3, 4, 5, 6, fig2")
    p.add_argument("--profile", default="paper", help="paper (default) or demo")
    p.add_argument("--rows", metavar="R,..", help="only these rows; a method's name is a row too")
    p.add_argument("--tasks", metavar="T,..", help="only these tasks, by folder or heading")
    p.add_argument("--seeds", metavar="0,1,..", help="default: the profile's")
    p.add_argument("--epochs", type=int, metavar="N", help="override the recipes' epochs")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a recipe key, as in lr=1e-3; may be repeated; part of a run's id",
    )
    p.add_argument("--protocol", default="recipe", choices=specs.PROTOCOLS)
    p.add_argument("--data", type=Path, metavar="DIR", help="holds vtab-1k/<task>/...")
    p.add_argument("--weights", metavar="PATH", help="weights file or folder; default: timm's hub")
    p.add_argument("--cache", type=Path, metavar="DIR", help="decoded images (default DATA/.cache)")
    p.add_argument("--results", type=Path, metavar="DIR", help="default results/<profile>")
    p.add_argument("--out", type=Path, metavar="DIR", help="default paper_tables/out/<profile>")
    p.add_argument("--workers", type=int, metavar="N", help="default: one a GPU, or the cores")
    p.add_argument(
        "--plain", action="store_true", help="take no fast path: the same numbers but for rounding"
    )
    p.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="a method")
    p.add_argument(
        "--save-deltas",
        default="auto",
        choices=DELTAS_MB,
        help="keep trained tensors in RESULTS/deltas; auto: up to 64 MB a run, so not full's",
    )
    p.add_argument("--dry-run", action="store_true", help="list what would run")
    p.add_argument("--status", action="store_true", help="what is done, running, failed, missing")
    p.add_argument(
        "--watch", action="store_true", help="the status until nothing is left to wait for"
    )
    p.add_argument("--cancel", action="store_true", help="cancel this table's jobs, no others")
    p.add_argument(
        "--clean-logs", action="store_true", help="remove the logs of runs that are done"
    )
    p.add_argument("--retry-failed", action="store_true", help="also run what failed before")
    p.add_argument("--smoke", action="store_true", help="accept short lists; never a result")
    p.add_argument(
        "--cluster",
        default="auto",
        choices=("auto", "slurm", "local", "debug"),
        help="auto: SLURM where it is set up, else this machine; debug: in this process",
    )
    p.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on SLURM: wait for the jobs and build the table (default), or return at once",
    )
    cluster_settings.add_flags(p)
    return p


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        return sweep(arguments, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def sweep(arguments: argparse.Namespace, console: Console) -> int:
    for plugin in arguments.plugin:
        methods.add_plugin(plugin)
    profile = specs.profile(arguments.profile)
    names = table_names(arguments.table)
    cells = [cell for name in names for cell in plan(name, profile, arguments)]
    folder = arguments.results or ROOT / "results" / profile.name
    cluster, settings = slurm.choose(arguments.cluster), cluster_settings.load(arguments)
    if arguments.cancel:
        count, arrays = upkeep.cancel(folder, arguments.table)
        console.print(f"cancelled {count} jobs of {arrays} arrays for table {arguments.table}")
        return 0
    if arguments.clean_logs:
        slurm.Slurm(folder, settings, {}, [], arguments.table, console).tidy()
        console.print(f"removed {upkeep.clean_logs(folder)} files of packs that are done")
        return 0
    if arguments.watch:
        status.watch(folder, cells, settings, console)
        return 0
    grid = status.Grid.read(folder, cells)
    if arguments.status:
        status.show(grid, settings, console)
        return 0
    todo = grid.of("missing", "running", "queued", *["failed"] * arguments.retry_failed)
    second = Second(grid.cells, todo, Results(folder))
    if arguments.dry_run:
        new = [config for config in todo if grid.found[config.run_id] != "queued"]
        view.print_plan(grid.cells, new, grid.found, console)
        ready, likely = len(grid.of("done")), second.likely()
        queued = f" {len(todo) - len(new)} queued," if len(todo) > len(new) else ""
        follow = f", {len(likely)} to follow" if likely else ""
        runs = len(grid.configs) + len(likely)
        console.print(
            f"\n{len(cells)} cells, {runs} runs; {ready} done,{queued} {len(new)} to do{follow}"
        )
        at_once = arguments.workers or default_workers()
        for line in status.forecast(grid, [*new, *likely], settings, cluster, at_once):
            console.print(line, highlight=False)
        return 0

    Claims(folder).clean()
    Results(folder).clean()
    # now, not when the runs are done: the code may be edited while this command waits for them
    from paper_tables import build, figures, views  # noqa: F401

    if not todo:
        runs = len(grid.configs)
        console.print(f"nothing to run: {runs} of {runs} runs have a record")
        if waiting := len(second.likely()):
            text = f"{waiting} more wait for trials that failed: --status names them"
            console.print(f"{text}, --retry-failed tries them again", style="yellow")
        return report(names, profile, folder, arguments, console)
    failures = run(todo, second, grid, profile, arguments, settings, console)
    if failures is None:  # submitted, and not waited for
        return 0
    return report(names, profile, folder, arguments, console) or (1 if failures else 0)


def run(todo, second, grid, profile, arguments, settings, console) -> int | None:
    """Check the data, prepare it, do the runs; returns how many failed, None if not waited for."""
    folder = grid.folder
    cluster = slurm.choose(arguments.cluster)
    where = data_folder(profile, arguments)
    expected = [*todo, *second.likely()]
    for benchmark, task, split in sorted(
        {(c.benchmark, c.task, s) for c in expected for s in (c.train_split, c.eval_split)}
    ):
        listing = data.read_list(where, tasks.get(benchmark, task), split, arguments.smoke)
        data.check_files(listing)
    place = {"data": where, "weights": arguments.weights, "cache": arguments.cache}
    place |= {"deltas": folder / "deltas", "deltas_mb": DELTAS_MB[arguments.save_deltas]}
    place |= {"plain": arguments.plain}
    if cluster == "slurm":
        return on_slurm(todo, second, grid, place, arguments, settings, console)
    if cluster == "debug":
        place = {key: value for key, value in place.items() if value is not None}
        failures = 0
        while todo:
            packs.Pack(tuple(todo), place, folder, arguments.plugin).work(0, 1, os.cpu_count() or 1)
            seen = survey([config.run_id for config in todo], Results(folder)).values()
            failures += sum(record.status == "failed" for record in seen)
            todo = [config for trial in todo for config in second.after(trial)]
        return failures
    with Local(folder, place, arguments.plugin, arguments.workers) as local:
        first = {(c.backbone, c.task, c.train_split, c.eval_split): c for c in reversed(expected)}
        with view.SweepView(len(first), "preparing", console) as shown:
            local.prepare(list(reversed(first.values())), shown.report)
        done = len(grid.configs) - len(todo)
        follow = f", {len(expected) - len(todo)} to follow" if len(expected) > len(todo) else ""
        console.print(
            f"{len(todo)} runs to do{follow}, {done} done before, {local.count} at a time"
        )
        with view.SweepView(len(expected), "runs", console) as shown:
            local.run(todo, shown.report, following(second, shown))
        return shown.failed


def following(second: Second, shown: view.SweepView) -> More:
    """What follows from a run, with the view's total kept true."""
    total = shown.total

    def more(config: RunConfig) -> list[RunConfig]:
        found = second.after(config)
        shown.total = total - second.spared
        return found

    return more


def on_slurm(todo, second, grid, place, arguments, settings, console) -> int | None:
    """Submit what is neither queued nor running, and see the runs through, whoever does them."""
    weights = arguments.weights
    if weights not in (None, "hub", "random") and not Path(weights).exists():
        raise ConfigError(f"--weights: {weights}: no such file or folder")
    grid.folder.mkdir(parents=True, exist_ok=True)
    began = filesystem_time(grid.folder)
    place["weights"] = (
        str(Path(weights).resolve()) if weights and Path(weights).exists() else weights
    )
    there = slurm.Slurm(grid.folder, settings, place, arguments.plugin, arguments.table, console)
    estimate, _ = grid.estimator(settings)
    sent = there.submit(todo, estimate, began)
    console.print(
        f"{len(todo)} runs to do, {len(grid.of('done'))} done before; {sent} submitted, "
        f"{len(todo) - sent} queued or running already",
        highlight=False,
    )
    likely = len(second.likely())
    if not arguments.wait:
        console.print(
            "not waiting: --status tells, and the same command goes on and builds the table"
        )
        if likely:
            console.print(f"it also submits the {likely} runs that follow from the trials")
        return None
    try:
        with view.SweepView(len(todo) + likely, "runs", console) as shown:
            more = following(second, shown)
            lost = there.wait(todo, estimate, began, shown.report, shown.say, more)
    except KeyboardInterrupt:
        print("the jobs go on without this command; --cancel stops them", file=sys.stderr)
        raise
    there.tidy()
    for line in lost:
        console.print(f"lost  {line}", style="red", markup=False, highlight=False)
    return shown.failed + len(lost)


def report(names, profile, folder, arguments, console) -> int:
    """Build and print the tables, and say where the files lie."""
    from paper_tables import build, views
    from paper_tables.records import scan

    out = arguments.out or ROOT / "paper_tables" / "out" / profile.name
    changed = [f"epochs={arguments.epochs}"] if arguments.epochs is not None else []
    changed += [*arguments.set, *["smoke"] * arguments.smoke]
    remark = f"changed on the command line: {' '.join(changed)}" if changed else ""
    records = scan(folder)
    build.tell(records, console, quiet=True)
    for name in names:
        cells = plan(name, profile, arguments)
        table = build.build(cells, records, profile, arguments.protocol, remark)
        views.show(views.sheet(table, "ours"), console)
        build.write(table, out)
        build.write_results(table, folder)
        written = f"{shorten(out / name)}.tex, .md, .csv, views and figures"
        console.print(f"  {written}; {shorten(folder / name)}.csv", soft_wrap=True)
    return 0


def shorten(path: Path) -> Path:
    """A path as a person here would type it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def plan(name: str, profile: specs.Profile, arguments: argparse.Namespace) -> list[specs.Cell]:
    overrides = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    overrides |= recipes.overrides(arguments.set)
    return specs.plan(
        specs.load(name),
        profile,
        words(arguments.rows),
        words(arguments.tasks),
        seeds(arguments.seeds),
        arguments.protocol,
        overrides,
        arguments.smoke,
    )


def words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def seeds(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds: found {text!r}, expected integers like 0,1,2") from None


def table_names(table: str) -> tuple[str, ...]:
    if table not in specs.TABLES:
        raise ConfigError(f"unknown table {table!r}; {nearest(table, specs.TABLES)}")
    return specs.TABLES[table]


def data_folder(profile: specs.Profile, arguments: argparse.Namespace) -> Path:
    """--data; for the demo the tasks that the project draws itself, drawn now if need be."""
    if arguments.data is not None:
        if not arguments.data.is_dir():
            raise ConfigError(f"--data: {arguments.data}: no such folder")
        return arguments.data
    if profile.name != "demo":
        raise ConfigError("--data DIR is needed: the folder that holds vtab-1k/<task>/...")
    from benchmarks.demo.tasks import write_tasks

    write_tasks(DEMO_DATA)
    return DEMO_DATA


if __name__ == "__main__":
    sys.exit(main())
