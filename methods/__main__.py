"""List the methods, or show one: python -m methods [show NAME [--backbone TAG]]."""

import argparse
import dataclasses
import sys

from . import registry
from .registry import InputError, MethodError

VIT_B = "vit_base_patch16_224.orig_in21k"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m methods", description=__doc__)
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py")
    commands = parser.add_subparsers(dest="command")
    show = commands.add_parser("show", help="equation, options and parameters of one method")
    show.add_argument("name")
    show.add_argument("--backbone", default=VIT_B, metavar="TAG")
    arguments = parser.parse_args(argv)
    try:
        for plugin in arguments.plugin:
            registry.add_plugin(plugin)
        if arguments.command == "show":
            print_one(arguments.name, arguments.backbone)
        else:
            print_all()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def print_all() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="Methods, with trainable parameters on ViT-B/16")
    table.add_column("name", style="bold")
    table.add_column("parameters", justify="right")
    table.add_column("what it is")
    table.add_column("options", style="dim")
    for name in registry.names():
        options = dataclasses.asdict(registry.options(name))
        about = registry.describe(name).split("\n", 1)[0]
        table.add_row(name, f"{count(name, VIT_B)['peft']:,}", about, ", ".join(options))
    Console().print(table)


def print_one(name: str, backbone: str) -> None:
    print(f"{name}\n{'=' * len(name)}\n{registry.describe(name)}\n")
    fields = dataclasses.fields(registry.options(name))
    print("Options" if fields else "Options: none")
    for field in fields:
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
        kind = str(field.type).replace("typing.", "") if kind in ("", "tuple", "Literal") else kind
        print(f"  {field.name}: {kind} = {field.default!r}")
    numbers = count(name, backbone)
    print(f"\nParameters on {backbone} (head of 100 classes)")
    print("  " + ", ".join(f"{key} {value:,}" for key, value in numbers.items()))


def count(name: str, backbone: str) -> dict[str, int]:
    """Trainable parameters of a method with its default options, from a model without storage."""
    import timm
    import torch

    from .attach import apply, parameters

    try:
        with torch.device("meta"):
            model = timm.create_model(backbone, num_classes=100)
    except RuntimeError as error:
        near = registry.nearest(backbone, timm.list_models(pretrained=True))
        raise MethodError(f"unknown backbone {backbone!r}; {near}") from error
    return parameters(apply(name, model))


if __name__ == "__main__":
    sys.exit(main())
