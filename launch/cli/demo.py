"""Make the demo's parts anew: its two backbones, and the images of its six tasks.

rlrr-bench demo data DIR         draw the six tasks to DIR/demo
rlrr-bench demo pretrain         train a backbone from scratch, as the shipped one was
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "demo", __doc__, "make the demo's backbones and images anew")
    inside = parser.add_subparsers(dest="command", required=True, parser_class=type(parser))
    c = inside.add_parser("pretrain", help="train a demo backbone from scratch")
    c.set_defaults(do=pretrain, stopped="stopped; nothing was written")
    c.add_argument("--model", choices=("vit", "swin"), default="vit")
    length = c.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_positive(int), help="length (default: as committed)")
    length.add_argument("--minutes", type=_positive(float), help="length on the clock instead")
    c.add_argument("--seed", type=_seed, default=0)
    c.add_argument("--out", type=Path, help="folder (default: the committed weights)")
    c = inside.add_parser("data", help="draw the six tasks to DIR/demo")
    c.set_defaults(do=data)
    c.add_argument("dir", type=Path, metavar="DIR")


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


def pretrain(arguments: argparse.Namespace, console: Console) -> int:
    """Train a backbone; nothing is written before it is trained."""
    from ...benchmarks.demo.models import WEIGHTS
    from ...benchmarks.demo.pretrain import STEPS, Pretraining
    from ...benchmarks.demo.pretrain import pretrain as train

    given = {"steps": STEPS[arguments.model]} | {
        name: getattr(arguments, name)
        for name in ("model", "steps", "minutes", "seed")
        if getattr(arguments, name) is not None
    }
    path = train(Pretraining(**given), arguments.out or WEIGHTS)
    console.print(f"wrote {path}", markup=False, soft_wrap=True)
    return 0


def data(arguments: argparse.Namespace, console: Console) -> int:
    """Draw the tasks unless they are there."""
    from ...benchmarks.demo import tasks

    target = arguments.dir / tasks.FOLDER
    drew = tasks.write_tasks(arguments.dir, report=lambda name: print(f"drew {name}", flush=True))
    told = f"wrote {target}" if drew else f"{target} is complete already"
    console.print(told, markup=False, soft_wrap=True)
    return 0
