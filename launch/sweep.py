"""Run what is missing of a table, then build it.

    python launch/sweep.py --table 2 --profile demo     the demo: minutes on a laptop
    python launch/sweep.py --table 2 --data DIR         the paper's: ViT-B/16 on VTAB-1k under DIR

Typing the same command again goes on where it was left: a run with a record is never done twice.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # so that `python launch/sweep.py` works as it stands
    sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

import methods  # noqa: E402
from benchmarks import data, tasks  # noqa: E402
from benchmarks.config import ConfigError  # noqa: E402
from benchmarks.record import Results  # noqa: E402
from launch import view  # noqa: E402
from launch.claims import Claims  # noqa: E402
from launch.cluster import Local  # noqa: E402
from launch.grid import states, unique  # noqa: E402
from methods.registry import InputError, nearest  # noqa: E402
from paper_tables import specs  # noqa: E402

DEMO_DATA = ROOT / "data"


def parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="sweep.py", description=__doc__, formatter_class=text)
    p.add_argument("--table", required=True, help="2, 3, 4, 5, 6")
    p.add_argument("--profile", default="paper", help="paper (default) or demo")
    p.add_argument("--rows", metavar="R,..", help="only these rows; a method's name is a row too")
    p.add_argument("--tasks", metavar="T,..", help="only these tasks, by folder or heading")
    p.add_argument("--seeds", metavar="0,1,..", help="default: the profile's")
    p.add_argument("--epochs", type=int, metavar="N", help="override the recipes' epochs")
    p.add_argument("--protocol", default="recipe", choices=specs.PROTOCOLS)
    p.add_argument("--data", type=Path, metavar="DIR", help="holds vtab-1k/<task>/...")
    p.add_argument("--weights", metavar="PATH", help="weights file or folder; default: timm's hub")
    p.add_argument("--cache", type=Path, metavar="DIR", help="decoded images (default DATA/.cache)")
    p.add_argument("--results", type=Path, metavar="DIR", help="default results/<profile>")
    p.add_argument("--out", type=Path, metavar="DIR", help="default paper_tables/out/<profile>")
    p.add_argument("--workers", type=int, metavar="N", help="default: one a GPU, or the cores")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="a method")
    p.add_argument("--dry-run", action="store_true", help="list what would run")
    p.add_argument("--status", action="store_true", help="what is done, running, failed, missing")
    p.add_argument("--retry-failed", action="store_true", help="also run what failed before")
    p.add_argument("--smoke", action="store_true", help="accept short lists; never a result")
    return p


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        return sweep(arguments, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def sweep(arguments: argparse.Namespace, console: Console) -> int:
    for plugin in arguments.plugin:
        methods.add_plugin(plugin)
    profile = specs.profile(arguments.profile)
    names = table_names(arguments.table)
    cells = [cell for name in names for cell in plan(name, profile, arguments)]
    configs = unique(cells)
    folder = arguments.results or ROOT / "results" / profile.name
    results, claims = Results(folder), Claims(folder)
    found = states(configs, results, claims)
    wanted = ("missing", "running", "failed") if arguments.retry_failed else ("missing", "running")
    todo = [config for run_id, config in configs.items() if found[run_id] in wanted]

    if arguments.dry_run:
        view.print_plan(cells, todo, found, console)
        ready = sum(state == "done" for state in found.values())
        console.print(f"\n{len(cells)} cells, {len(configs)} runs; {ready} done, {len(todo)} to do")
        return 0
    if arguments.status:
        errors = {
            configs[run_id].name: results.read(run_id)["error"]
            for run_id, state in found.items()
            if state == "failed"
        }
        view.print_status(cells, found, errors, console)
        return 0

    claims.clean()
    failures = run(todo, configs, folder, profile, arguments, console) if todo else 0
    if not todo:
        console.print(f"nothing to run: {len(configs)} of {len(configs)} runs have a record")
    return report(names, profile, folder, arguments, console) or (1 if failures else 0)


def run(todo, configs, folder, profile, arguments, console) -> int:
    """Check the data, prepare it, do the runs; returns how many failed."""
    where = data_folder(profile, arguments)
    for benchmark, task, split in sorted(
        {(c.benchmark, c.task, s) for c in todo for s in (c.train_split, c.eval_split)}
    ):
        listing = data.read_list(where, tasks.get(benchmark, task), split, arguments.smoke)
        data.check_files(listing)
    place = {"data": where, "weights": arguments.weights, "cache": arguments.cache}
    with Local(folder, place, arguments.plugin, arguments.workers) as local:
        first = {(c.backbone, c.task, c.train_split, c.eval_split): c for c in reversed(todo)}
        with view.SweepView(len(first), "preparing", console) as shown:
            local.prepare(list(reversed(first.values())), shown.report)
        done = len(configs) - len(todo)
        console.print(f"{len(todo)} runs to do, {done} done before, {local.count} at a time")
        with view.SweepView(len(todo), "runs", console) as shown:
            local.run(todo, shown.report)
        return shown.failed


def report(names, profile, folder, arguments, console) -> int:
    """Build and print the tables, and say where the files lie."""
    from paper_tables import build

    out = arguments.out or ROOT / "paper_tables" / "out" / profile.name
    for name in names:
        cells = plan(name, profile, arguments)
        built = build.build(cells, Results(folder), profile, arguments.protocol)
        build.show(built, console)
        for path in [*build.write(built, out), build.write_records(built, folder)]:
            console.print(f"  {shorten(path)}")
    return 0


def shorten(path: Path) -> Path:
    """A path as a person here would type it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def plan(name: str, profile: specs.Profile, arguments: argparse.Namespace) -> list[specs.Cell]:
    overrides = {} if arguments.epochs is None else {"epochs": arguments.epochs}
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
