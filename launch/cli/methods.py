"""List the methods, or show one: its equation, options and parameter counts.

rlrr-bench methods
rlrr-bench methods show rlrr --backbone vit_large_patch16_224.orig_in21k
"""

import argparse
import dataclasses

from rich.console import Console
from rich.table import Table

from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "methods", __doc__, "list the methods, or show one")
    parser.set_defaults(do=do, name=None)
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py")
    parser.add_argument("--markdown", action="store_true", help="the list as a Markdown table")
    inside = parser.add_subparsers(dest="command", metavar="{show}", parser_class=type(parser))
    show = inside.add_parser("show", help="equation, options and parameters of one method")
    show.add_argument("name")
    show.add_argument("--backbone", metavar="TAG", help="default: the paper's ViT-B/16")
    # given before `show` or behind it; a default here would forget the former
    show.add_argument("--plugin", action="append", default=argparse.SUPPRESS, metavar="FILE.py")


def do(arguments: argparse.Namespace, console: Console) -> int:
    from ...methods import catalogue

    flags.add_plugins(arguments.plugin)
    if arguments.command == "show":
        show(arguments.name, arguments.backbone or catalogue.VIT_B)
    elif arguments.markdown:
        print(catalogue.markdown())
    else:
        show_all(console)
    return 0


def show_all(console: Console) -> None:
    from ...methods import catalogue, registry

    table = Table(box=None, pad_edge=False, title="Methods, with trainable parameters on ViT-B/16")
    table.add_column("name", style="bold")
    table.add_column("parameters", justify="right")
    table.add_column("what it is")
    table.add_column("options", style="dim")
    for name in registry.names():
        options = dataclasses.asdict(registry.options(name))
        count = f"{catalogue.count(name, catalogue.VIT_B)['peft']:,}"
        table.add_row(name, count, catalogue.title(name), ", ".join(options))
    console.print(table)


def show(name: str, backbone: str) -> None:
    from ...methods import catalogue, registry

    numbers = catalogue.count(name, backbone)  # first: it may fail
    print(f"{name}\n{'=' * len(name)}\n{registry.describe(name)}\n")
    options = dataclasses.fields(registry.options(name))
    print("Options" if options else "Options: none")
    for field in options:
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
        kind = str(field.type).replace("typing.", "") if kind in ("", "tuple", "Literal") else kind
        print(f"  {field.name}: {kind} = {field.default!r}")
    print(f"\nParameters on {backbone} (head of 100 classes)")
    print("  " + ", ".join(f"{key} {value:,}" for key, value in numbers.items()))
