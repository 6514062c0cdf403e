"""Command line of the demo benchmark: ``python -m benchmarks.demo {pretrain,data}``."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from benchmarks.demo import tasks
from methods.registry import InputError


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse names it in its error line
    return parse


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


class _Parser(argparse.ArgumentParser):
    """Reports bad input in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m benchmarks.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pretrain = commands.add_parser("pretrain", help="train a demo backbone from scratch")
    pretrain.add_argument("--model", choices=("vit", "swin"), default="vit")
    length = pretrain.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_positive(int), help="length (default: as committed)")
    length.add_argument("--minutes", type=_positive(float), help="length on the clock instead")
    pretrain.add_argument("--seed", type=_seed, default=0)
    pretrain.add_argument("--out", type=Path, help="folder (default: the committed weights')")
    data = commands.add_parser("data", help="draw the six tasks to DIR/demo")
    data.add_argument("dir", type=Path, metavar="DIR")
    return parser.parse_args(argv)


def _pretrain(arguments: argparse.Namespace) -> None:
    # Imported here: drawing the data needs neither torch nor timm.
    from benchmarks.demo.models import WEIGHTS
    from benchmarks.demo.pretrain import STEPS, Recipe, pretrain

    given = {"steps": STEPS[arguments.model]} | {
        name: getattr(arguments, name)
        for name in ("model", "steps", "minutes", "seed")
        if getattr(arguments, name) is not None
    }
    print(f"wrote {pretrain(Recipe(**given), arguments.out or WEIGHTS)}")


def _data(arguments: argparse.Namespace) -> None:
    target = arguments.dir / tasks.FOLDER
    drew = tasks.write_tasks(arguments.dir, report=lambda name: print(f"drew {name}", flush=True))
    print(f"wrote {target}" if drew else f"{target} is complete already")


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit code: 2 where a folder is unusable, 130 for Ctrl-C."""
    arguments = _arguments(argv)
    try:
        {"pretrain": _pretrain, "data": _data}[arguments.command](arguments)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
