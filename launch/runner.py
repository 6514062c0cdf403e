"""See a request's runs through: on this machine, on SLURM, or in this process."""

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from ..benchmarks import data, tasks
from ..benchmarks.config import RunConfig
from ..benchmarks.context import RunContext
from ..benchmarks.extensions import extensions
from ..benchmarks.store import Results
from ..methods.errors import ConfigError
from ..paper_tables.plan import Cell
from ..paper_tables.records import Outdated
from . import view
from .claims import Claims
from .execution import begin
from .freshness import outdated_inputs
from .grid import Followers, Grid
from .local import Local
from .machine import threads
from .messages import Following
from .request import SweepRequest
from .slurm import arrays, packs, squeue


@dataclass
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        grid: as it stands afterwards.
        outdated: finished runs that were made with other code, weights or pixels than now.
        lost: a line for every run whose jobs ended without a record.
        waited: False where jobs were submitted and not waited for.
    """

    grid: Grid
    outdated: Outdated = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    waited: bool = True

    @property
    def exit_code(self) -> int:
        """1 while a cell of the request is without its number because runs failed."""
        return 1 if self.waited and (self.lost or self.grid.failed_cells) else 0


def run(request: SweepRequest, console: Console) -> SweepOutcome:
    """Do the runs of the request that have no result yet.

    Raises:
        InputError: something that concerns every run is wrong; nothing was begun then.
    """
    cells = request.cells()
    grid = Grid.survey(request.results, cells)
    context = data_for(grid.configs.values(), request.data, request.context)
    with console.status("comparing records with the weights and pixels that are here"):
        outdated = _outdated(request, grid, context)
    tell_outdated(grid, outdated, console, rerun=request.rerun)
    again = [grid.configs[run_id] for run_id in outdated] if request.rerun else []
    todo = grid.to_do(request.retry_failed)
    if request.rerun and not request.retry_failed:
        todo += grid.failed_with_other_code()
    if not (todo or again):
        runs = len(grid.configs)
        console.print(f"nothing to run: {runs} of {runs} runs have a record")
        if failed := len(grid.of("failed")):
            changed = len(grid.failed_with_other_code())
            mended = f"; the method file of {changed} has changed since" if changed else ""
            text = f"{failed} of them failed: --retry-failed tries them again{mended}"
            console.print(text, style="yellow")
        if waiting := len(Followers(grid, todo).likely()):
            text = f"{waiting} more wait for trials that failed: --status names them"
            console.print(f"{text}, --retry-failed tries them again", style="yellow")
        return SweepOutcome(grid, outdated)
    if context is None:
        raise ConfigError("--data DIR is needed: the folder that holds vtab-1k/<task>/...")
    Claims(request.results, squeue).clean()
    Results(request.results).clean()
    check_lists([*todo, *again, *Followers(grid, todo).likely()], context)
    work = _Work(request, context, cells, grid, todo, again)
    lost, waited = [], True
    if request.cluster == "slurm":
        answer = _on_slurm(work, console)
        lost, waited = answer or [], answer is not None
    elif request.cluster == "debug":
        _in_this_process(work, console)
    else:
        _here(work, console)
    rest = {} if again else outdated
    return SweepOutcome(Grid.survey(request.results, cells), rest, lost, waited)


@dataclass
class _Work:
    """What is to be done, and where. again: finished runs that are to be made anew."""

    request: SweepRequest
    context: RunContext
    cells: list[Cell]
    grid: Grid
    todo: list[RunConfig]
    again: list[RunConfig]

    def __post_init__(self) -> None:
        self.todo = [*self.todo, *self.again]
        self.followers = Followers(self.grid, self.todo)

    def set_out(self, console: Console) -> None:
        """Put the old records aside, now that all is known to be well, and look again."""
        if not self.again:
            return
        results = Results(self.request.results)
        moved = [results.put_aside(config.run_id) for config in self.again]
        count = sum(path is not None for path in moved)
        what = "record" if count == 1 else "records"
        console.print(f"{count} {what} put aside in {results.folder / 'aside'}")
        self.grid = Grid.survey(self.request.results, self.cells)
        self.todo = self.grid.to_do(self.request.retry_failed)
        self.followers = Followers(self.grid, self.todo)


def _outdated(request: SweepRequest, grid: Grid, context: RunContext | None) -> Outdated:
    """What has changed since finished runs were made, by run id."""
    changed = dict(grid.outdated_code)
    inputs = outdated_inputs(grid, context or request.context, with_data=context is not None)
    for run_id, words in inputs.items():
        changed[run_id] = (*changed.get(run_id, ()), *words)
    return changed


def tell_outdated(grid: Grid, outdated: Outdated, console: Console, rerun: bool) -> None:
    """Print a line for every row whose records were made with something that has changed."""
    counts: Counter[tuple[str, str]] = Counter()
    for cell in grid.cells:
        for config in cell.runs:
            for what in outdated.get(config.run_id, ()):
                counts[cell.row.label, what] += 1
    inputs = {"weights": "other weights than these", "pixels": "other pixels than these"}
    for (row, what), count in counts.items():
        made = "record of {} was made" if count == 1 else "records of {} were made"
        text = f"{count} {made.format(row)} with {inputs.get(what, f'another {what}')}"
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if counts and not rerun:
        console.print("they are marked in the tables; --rerun makes them anew", style="yellow")


def data_for(
    configs: Collection[RunConfig], folder: Path | None, context: RunContext
) -> RunContext | None:
    """The context with a data folder: the one given, or one that the benchmark fills itself.

    Returns:
        None where no folder was given and the benchmark brings no images of its own.

    Raises:
        ConfigError: there is no such folder.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f"--data: {folder}: no such folder")
        return replace(context, data=folder)
    names = {config.benchmark for config in configs}
    bringing = extensions()
    if not names or not names <= bringing.keys():
        return None
    for name in sorted(names):
        bringing[name].write_data(context.data)
    return context


def check_lists(configs: list[RunConfig], context: RunContext) -> None:
    """Check that every list and image file of these runs exists.

    Raises:
        DataError: names the first that is not.
    """
    splits = {
        (c.benchmark, c.task, split, c.smoke)
        for c in configs
        for split in (c.train_split, c.eval_split)
    }
    for benchmark, task, split, smoke in sorted(splits):
        listing = data.read_list(context.data, tasks.get(benchmark, task), split, smoke)
        data.check_files(listing)


def following(followers: Followers, shown: view.SweepView) -> Following:
    """A function that gives what follows from a run, and keeps the view's total true."""
    total = shown.total

    def after(config: RunConfig) -> list[RunConfig]:
        new = followers.after(config)
        shown.total = total - followers.spared
        return new

    return after


def _here(work: _Work, console: Console) -> None:
    """Do the runs with worker processes here, after loading all weights and data once."""
    expected = [*work.todo, *work.followers.likely()]
    with Local(work.grid.folder, work.context, work.request.workers) as local:
        first = {(c.backbone, c.task, c.train_split, c.eval_split): c for c in reversed(expected)}
        with view.SweepView(len(first), "preparing", console, work.grid.names) as shown:
            local.prepare(list(reversed(first.values())), shown.report)
        work.set_out(console)
        _announce(work, local.count, console)
        total = len(work.todo) + len(work.followers.likely())
        with view.SweepView(total, "runs", console, work.grid.names) as shown:
            local.run(work.todo, shown.report, following(work.followers, shown))


def _announce(work: _Work, at_once: int, console: Console) -> None:
    likely, done = len(work.followers.likely()), len(work.grid.configs) - len(work.todo)
    follow = f", {likely} to follow" if likely else ""
    console.print(f"{len(work.todo)} runs to do{follow}, {done} done before, {at_once} at a time")


def _in_this_process(work: _Work, console: Console) -> None:
    """Do one run after another in this process, for debuggers."""
    begin(work.context, threads(1))
    work.set_out(console)
    _announce(work, 1, console)
    todo = work.todo
    while todo:
        pack = packs.Pack(tuple(todo), work.context, work.grid.folder, names=work.grid.names)
        pack.work(0, 1, threads(1))
        todo = [config for trial in todo for config in work.followers.after(trial)]


def _on_slurm(work: _Work, console: Console) -> list[str] | None:
    """Submit what is neither queued nor running, then wait for all runs, whoever does them.

    Returns:
        A line for every run that was given up; None: not waited for.
    """
    request, weights = work.request, work.context.weights
    if weights not in (None, "hub", "random") and not Path(weights).exists():
        raise ConfigError(f"--weights: {weights}: no such file or folder")
    work.set_out(console)
    cluster = arrays.Slurm(
        work.grid.folder,
        request.settings,
        work.context,
        table=request.table,
        names=work.grid.names,
        estimate=work.grid.estimator(request.settings.prior)[0],
        console=console,
    )
    todo, likely = work.todo, len(work.followers.likely())
    sent = cluster.submit(todo)
    console.print(
        f"{len(todo)} runs to do, {len(work.grid.of('done'))} done before; {sent} submitted, "
        f"{len(todo) - sent} queued or running already",
        highlight=False,
    )
    if not request.wait:
        console.print(
            "not waiting: --status tells, and the same command goes on and builds the table"
        )
        if likely:
            console.print(f"it also submits the {likely} runs that follow from the trials")
        return None
    try:
        with view.SweepView(len(todo) + likely, "runs", console, work.grid.names) as shown:
            after = following(work.followers, shown)
            lost = cluster.wait(todo, shown.report, shown.say, after)
    except KeyboardInterrupt:
        print("the jobs go on without this command; --cancel stops them", file=sys.stderr)
        raise
    arrays.tidy(work.grid.folder)
    for line in lost:
        console.print(f"lost  {line}", style="red", markup=False, highlight=False)
    return lost
