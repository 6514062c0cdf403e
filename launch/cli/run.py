"""Do a single run in this terminal, with its curve; it leaves a record as in a sweep.

rlrr-bench run --method lora --task digits --profile demo
rlrr-bench run --method rlrr --task cifar --data DIR --option qkv=fused --set lr=1e-3
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...benchmarks import tasks
from ...benchmarks.config import RunConfig
from ...benchmarks.context import RunContext
from ...benchmarks.outcome import EpochDone
from ...benchmarks.record import RunRecord
from ...benchmarks.store import Results
from ...methods import names
from ...methods.errors import ConfigError, MethodError, nearest
from ...paper_tables import select, specs
from ...paper_tables.plan import OptionChange, TableRequest, plan
from ...paper_tables.select import rounded
from . import flags

VIT_B = "vit_base_patch16_224.orig_in21k"
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60  # of a curve, in characters


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "run", __doc__, "do a single run in the terminal, with its curve")
    parser.set_defaults(do=do, stopped="stopped; nothing was written")
    what = parser.add_argument_group("what")
    what.add_argument(
        "--method", required=True, metavar="M", help="`rlrr-bench methods` lists them"
    )
    what.add_argument("--task", required=True, metavar="T", help="by folder, heading or alias")
    what.add_argument("--backbone", default=VIT_B, metavar="TAG", help="default: the paper's")
    what.add_argument("--recipe", default="ours", metavar="R", help="default: ours")
    what.add_argument("--seed", type=flags.seed, default=0, metavar="N")
    what.add_argument("--curve", action="store_true", help="score the test set after every epoch")
    flags.add_profile(what)
    flags.add_changes(what, "rank=4", "")
    what.add_argument("--smoke", action="store_true", help="accept short lists; never a result")
    what.add_argument(
        "--rerun", action="store_true", help="also if it has a record, which is kept aside"
    )
    flags.add_context(parser)
    parser.add_argument("--device", metavar="D", help="as torch names it; default: a GPU if any")
    parser.add_argument("--results", type=Path, metavar="DIR", help="default results/<profile>")


@dataclass(frozen=True)
class SingleRun:
    """What the flags ask for. with_data: whether a data folder was named."""

    config: RunConfig
    context: RunContext
    results: Path
    rerun: bool
    with_data: bool


def do(arguments: argparse.Namespace, console: Console) -> int:
    request = asked_for(arguments)
    record = see_through(request, console)
    show(record, request, console)
    return 0 if record.done else 1


def asked_for(arguments: argparse.Namespace) -> SingleRun:
    """The run that the flags describe: planned as the only cell of a table of its own."""
    plugins = flags.add_plugins(arguments.plugin)
    if arguments.method not in names():
        hint = nearest(arguments.method, names())
        raise MethodError(f"--method: unknown method {arguments.method!r}; {hint}")
    profile = specs.profile(arguments.profile)
    if profile.recipe and arguments.recipe not in ("ours", profile.recipe):
        raise ConfigError(f"--recipe: the profile {profile.name} has its own, {profile.recipe}")
    benchmark, task = _task(arguments.task, profile)
    options = {}
    for change in map(OptionChange.parse, arguments.option):
        if len(change.values) > 1:
            raise ConfigError(f"--option: {change.option}: one value for a single run")
        options[change.option] = change.values[0]
    key = arguments.method
    row = specs.Row(key, key, key, arguments.backbone, arguments.recipe, options)
    request = TableRequest(
        spec=specs.Spec("run", "a single run", benchmark, {key: row}),
        profile=profile,
        tasks=(task,),
        seeds=(arguments.seed,),
        curve=arguments.curve,
        recipe=flags.changes(arguments),
        smoke=arguments.smoke,
    )
    results = flags.results_folder(arguments)
    records = Results(results)
    (cell,) = select.decide(plan(request), records.read, records.ids())
    assert cell.config is not None  # only the protocol val leaves it open
    context = flags.context(arguments, results, plugins)
    return SingleRun(
        config=cell.config,
        context=replace(context, device=arguments.device),
        results=results,
        rerun=arguments.rerun,
        with_data=arguments.data is not None,
    )


def _task(word: str, profile: specs.Profile) -> tuple[str, str]:
    """The benchmark and name of a task; the profile's own benchmarks are looked at first."""
    every = list(tasks.benchmarks())
    first = [name for name in every if name in profile.benchmarks.values()]
    for benchmark in [*first, *every]:
        try:
            return benchmark, tasks.get(benchmark, word).name
        except ConfigError:
            continue
    known = [name for benchmark in every for name in tasks.benchmarks()[benchmark]]
    raise ConfigError(f"--task: unknown task {word!r}; {nearest(word, known)}")


def see_through(request: SingleRun, console: Console) -> RunRecord:
    """Do the run unless it has a record; its record."""
    from ..claims import Claims
    from ..execution import begin, do
    from ..machine import threads
    from ..messages import Taken
    from ..runner import check_lists, data_for
    from ..slurm import squeue

    config, results = request.config, Results(request.results)
    record = results.read(config.run_id)
    if record is not None and record.done and not request.rerun:
        console.print(f"{config.name} has a record already; --rerun makes it anew", style="yellow")
        return record
    folder = request.context.data if request.with_data else None
    context = data_for([config], folder, request.context)
    if context is None:
        raise ConfigError("--data DIR is needed: the folder that holds vtab-1k/<task>/...")
    check_lists([config], context)
    begin(context, threads(1))
    from ...benchmarks import run

    run.prepare(config, context)
    if record is not None:  # put aside when all is known to be well
        results.put_aside(config.run_id)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task(config.name, total=None)

        def on_epoch(done: EpochDone) -> None:
            top1 = "" if done.top1 is None else f"  top-1 {rounded(done.top1, 1)}"
            told = f"loss {done.loss:.4f}{top1}  {done.images_per_second:,.0f} images/s"
            progress.update(bar, total=done.epochs, completed=done.epoch, description=told)
            if not console.is_terminal:
                console.print(f"epoch {done.epoch}/{done.epochs}  {told}")

        reply = do(config, context, Claims(request.results, squeue), on_epoch=on_epoch)
    if isinstance(reply, Taken):
        raise ConfigError(f"{config.name}: another process does this run now")
    return reply.record


def show(record: RunRecord, request: SingleRun, console: Console) -> None:
    """Print the curve, the result and where the record lies."""
    from ..execution import short

    for key, what in (("loss", "loss "), ("top1", "top-1")):
        values = [point[key] for point in record.curve if key in point]
        if len(values) > 1:
            first, last = (f"{values[i]:8.3f}" for i in (0, -1))
            console.print(f"{what} {first}  {sparkline(values)}  {last.strip()}")
    if record.done:
        best, parameters = record.top1_best_test, record.params_total or 0
        console.print(
            f"[bold]{record.config.name}  top-1 {rounded(record.score, 1)}[/bold]"
            + (f" (best epoch on the test set {rounded(best, 1)})" if best is not None else "")
            + f", {parameters / 1e6:.3f} M parameters with the head, "
            f"{record.seconds_total:.0f} s on {record.device}, {record.precision}"
        )
    else:
        for line in (f"failed: {record.error}", *(f"    {f}" for f in record.traceback)):
            console.print(line, style="red", markup=False)
    path = short(request.results / "runs" / f"{record.run_id}.json")
    console.print(str(path), style="dim", soft_wrap=True, markup=False)


def sparkline(values: list[float]) -> str:
    """A curve as a line of bars, at most WIDTH of them, from its least value to its greatest."""
    points = values
    if len(values) > WIDTH:
        points = [values[round(i * (len(values) - 1) / (WIDTH - 1))] for i in range(WIDTH)]
    low, high = min(points), max(points)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0
    return "".join(BARS[round((value - low) * scale)] for value in points)
