"""Flags that several verbs share, and the typed requests that they become."""

import argparse
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ... import methods
from ...benchmarks import recipes
from ...benchmarks.config import Recipe
from ...benchmarks.context import RunContext
from ...methods.errors import ConfigError
from ...paper_tables import specs
from ...paper_tables.plan import PROTOCOLS, OptionChange, TableRequest
from ..request import DELTAS_MB, SweepRequest
from ..slurm import settings as slurm_settings

Commands = Any  # argparse's own type for what `add_subparsers` returns is private
RESULTS, OUT = Path("results"), Path("paper_tables") / "out"  # in the working directory


def verb(commands: Commands, name: str, text: str | None, help: str) -> argparse.ArgumentParser:
    """A verb's parser; `text` is the module's docstring, laid out as it stands."""
    layout = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(name, help=help, description=text, formatter_class=layout)


def add_selection(parser: argparse.ArgumentParser, table: bool = True) -> None:
    """Which part of which table, with which changes."""
    group = parser.add_argument_group("what")
    if table:
        group.add_argument("--table", required=True, metavar="T", help="2, 3, 4, 5, 6 or fig2")
    add_profile(group)
    group.add_argument("--rows", metavar="R,..", help="only these rows; a method is a row too")
    group.add_argument("--tasks", metavar="T,..", help="only these tasks, by folder or heading")
    group.add_argument("--seeds", metavar="0,1,..", help="default: the profile's")
    add_protocol(group)
    group.add_argument(
        "--curve",
        action="store_true",
        help="score the test set after every epoch, so that the same runs answer recipe, best_test "
        "and printed; decide before the first sweep",
    )
    add_changes(group, "lora.rank=4", "lora.rank=2,4 makes a row for each value")
    group.add_argument("--smoke", action="store_true", help="accept short lists; never a result")


def add_changes(group: argparse._ActionsContainer, example: str, axis: str) -> None:
    """Overrides of recipes and of method options, and methods from files."""
    group.add_argument("--epochs", type=int, metavar="N", help="override the recipe's epochs")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a recipe key, as in lr=1e-3; may be repeated; part of a run's id",
    )
    group.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"a method's option, as in {example}{f'; {axis}' if axis else ''}",
    )
    group.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="a method of your own"
    )


def add_profile(group: argparse._ActionsContainer) -> None:
    action = group.add_argument("--profile", default="paper", help="paper (default) or demo")
    action.completer = lambda **_: specs.profiles()  # type: ignore[attr-defined]


def add_protocol(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--protocol",
        default="recipe",
        choices=PROTOCOLS,
        help="how a number is selected (default: recipe, the last epoch of published settings; "
        "see docs/protocols.md)",
    )


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Where records and tables lie."""
    group = parser.add_argument_group("where results go")
    group.add_argument("--results", type=Path, metavar="DIR", help="default results/<profile>")
    group.add_argument("--out", type=Path, metavar="DIR", help="default paper_tables/out/<profile>")


def add_context(parser: argparse.ArgumentParser) -> None:
    """Where data and weights are, and what is kept."""
    group = parser.add_argument_group("data, weights and speed")
    group.add_argument("--data", type=Path, metavar="DIR", help="holds vtab-1k/<task>/...")
    group.add_argument("--weights", metavar="PATH", help="file or folder; default: timm's hub")
    group.add_argument(
        "--cache", type=Path, metavar="DIR", help="decoded images (default: DIR/.cache)"
    )
    group.add_argument("--plain", action="store_true", help="no fast paths (equal up to rounding)")
    group.add_argument(
        "--save-deltas",
        default="auto",
        choices=DELTAS_MB,
        help="keep trained tensors in the results folder's deltas/; auto: only up to 64 MB a run",
    )


def add_slurm(parser: argparse.ArgumentParser) -> None:
    """The command line's part of a cluster's settings."""
    group = parser.add_argument_group("SLURM", "`rlrr-bench settings` prints and explains them")
    group.add_argument(
        "--settings", type=Path, default=slurm_settings.DEFAULTS, metavar="FILE", help="your own"
    )
    for name, (kind, text) in slurm_settings.FLAGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar=kind, help=text)
    group.add_argument("--setup", action="append", metavar="LINE", help="shell line before work")
    group.add_argument(
        "--sbatch", action="append", metavar="KEY=VALUE", help="any other option of sbatch"
    )


def settings(arguments: argparse.Namespace) -> slurm_settings.Settings:
    names = (*slurm_settings.FLAGS, "setup", "sbatch")
    given = {name: getattr(arguments, name) for name in names}
    return slurm_settings.load(arguments.settings, given)


def words(text: str | None) -> tuple[str, ...] | None:
    """Comma-separated words; None stays None."""
    return None if text is None else tuple(w.strip() for w in text.split(",") if w.strip())


def positive(text: str) -> int:
    """For argparse: an integer of 1 or more."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


positive.__name__ = "integer of 1 or more"  # as argparse names it in its error line


def seed(text: str) -> int:
    """For argparse: an integer that seeds generators."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError(text)
    return number


def seeds(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(seed(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds: found {text!r}, expected integers like 0,1,2") from None


def add_plugins(files: Iterable[str]) -> tuple[Path, ...]:
    """Register methods from files; their paths, which workers need."""
    for file in files:
        methods.add_plugin(file)
    return tuple(Path(file).resolve() for file in files)


def changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Recipe keys from --epochs and --set."""
    for pair in arguments.set:
        key = pair.partition("=")[0]
        if key and key not in {f.name for f in fields(Recipe)}:
            _say_where(key, arguments)
    changed = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    return changed | recipes.overrides(arguments.set)


def _say_where(key: str, arguments: argparse.Namespace) -> None:
    """A key that is no recipe's may belong elsewhere.

    Raises:
        ConfigError: it does.
    """
    owners = [
        name for name in methods.names() if key in {f.name for f in fields(methods.options(name))}
    ]
    if owners:
        first = "lora" if "lora" in owners else owners[0]
        raise ConfigError(
            f"--set: {key!r} is an option of {', '.join(owners)}; use --option {first}.{key}=..."
        )
    if hasattr(arguments, key) or hasattr(arguments, f"{key}s"):
        flag = key if hasattr(arguments, key) else f"{key}s"
        raise ConfigError(f"--set: {key!r} is no recipe key; use --{flag.replace('_', '-')} ...")


def canonical(table: str) -> str:
    """One name for a table however it is spelled: 2, table2 and Table2 are 2."""
    names = specs.named(table)
    return next((key for key, specs_of in specs.TABLES.items() if specs_of == names), names[0])


def tables(arguments: argparse.Namespace) -> tuple[TableRequest, ...]:
    """The specs' parts that the flags of `add_selection` ask for."""
    return tuple(
        TableRequest(
            spec=specs.spec(name),
            profile=specs.profile(arguments.profile),
            rows=words(arguments.rows),
            tasks=words(arguments.tasks),
            seeds=seeds(arguments.seeds),
            protocol=arguments.protocol,
            recipe=changes(arguments),
            options=tuple(OptionChange.parse(text) for text in arguments.option),
            curve=arguments.curve,
            smoke=arguments.smoke,
        )
        for name in specs.named(arguments.table)
    )


def context(arguments: argparse.Namespace, results: Path, plugins: tuple[Path, ...]) -> RunContext:
    """Of the flags of `add_context`; without --data it has the folder that a benchmark fills."""
    weights = arguments.weights
    if weights == "random" and not arguments.smoke:
        raise ConfigError("--weights random makes no result; add --smoke")
    if weights and Path(weights).exists():
        weights = str(Path(weights).resolve())
    return RunContext(
        data=arguments.data or Path("data"),
        weights=weights,
        cache=arguments.cache,
        deltas=(results / "deltas").resolve(),
        deltas_mb=DELTAS_MB[arguments.save_deltas],
        plain=arguments.plain,
        plugins=plugins,
    )


def results_folder(arguments: argparse.Namespace) -> Path:
    name = specs.profile(arguments.profile).name
    return _folder("--results", arguments.results or RESULTS / name)


def out_folder(arguments: argparse.Namespace) -> Path:
    return _folder("--out", arguments.out or OUT / specs.profile(arguments.profile).name)


def _folder(flag: str, path: Path) -> Path:
    """The folder, which need not exist yet.

    Raises:
        ConfigError: something else is in its way.
    """
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"{flag}: {part}: found a file, expected a folder")
    return path


def sweep_request(arguments: argparse.Namespace) -> SweepRequest:
    """What the flags of a sweep ask for, checked."""
    from ..slurm.squeue import choose

    plugins = add_plugins(arguments.plugin)
    results = results_folder(arguments)
    return SweepRequest(
        table=canonical(arguments.table),
        tables=tables(arguments),
        results=results,
        out=out_folder(arguments),
        context=context(arguments, results, plugins),
        settings=settings(arguments),
        cluster=choose(arguments.cluster),
        data=arguments.data,
        workers=arguments.workers,
        wait=arguments.wait,
        retry_failed=arguments.retry_failed,
        rerun=arguments.rerun,
    )
