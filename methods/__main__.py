"""List the methods, show one, or export what a run has trained."""

import argparse
import dataclasses
import sys
from pathlib import Path

from . import registry
from .registry import InputError, MethodError

VIT_B = "vit_base_patch16_224.orig_in21k"
SWIN_B = "swin_base_patch4_window7_224.ms_in22k"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m methods", description=__doc__)
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py")
    parser.add_argument("--markdown", action="store_true", help="the list as a Markdown table")
    commands = parser.add_subparsers(dest="command", metavar="{show,export}")
    show = commands.add_parser("show", help="equation, options and parameters of one method")
    show.add_argument("name")
    show.add_argument("--backbone", default=VIT_B, metavar="TAG")
    export = commands.add_parser("export", help="write what a run has trained to a file")
    export.add_argument("run_id", metavar="RUN_ID")
    form = export.add_mutually_exclusive_group(required=True)
    form.add_argument("--out", type=Path, metavar="FILE.safetensors", help="the trained tensors")
    form.add_argument("--peft", type=Path, metavar="DIR", help="LoRA as a PEFT adapter folder")
    export.add_argument("--merged", action="store_true", help="--out: a plain timm state dict")
    export.add_argument("--weights", metavar="PATH", help="--merged: the backbone's, as in a sweep")
    export.add_argument("--results", type=Path, metavar="DIR", help="default: all under results/")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        for plugin in arguments.plugin:
            registry.add_plugin(plugin)
        if arguments.command == "show":
            print_one(arguments.name, arguments.backbone)
        elif arguments.command == "export":
            export(arguments)
        elif arguments.markdown:
            print(markdown())
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
        table.add_row(name, f"{count(name, VIT_B)['peft']:,}", title(name), ", ".join(options))
    Console().print(table)


def markdown() -> str:
    """The table of methods for a README: every file in the registry, nothing typed by hand."""
    lines = [
        "| name | what it is | options | parameters on ViT-B/16 | merges |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for name in registry.names():
        options = ", ".join(
            f"`{field.name}={text(field.default)}`"
            for field in dataclasses.fields(registry.options(name))
        )
        merges = {kind: merges_on(name, tag) for kind, tag in (("ViT", VIT_B), ("Swin", SWIN_B))}
        where = [kind for kind, yes in merges.items() if yes]
        answer = {0: "no", 1: f"on {where[0]}" if where else "", 2: "yes"}[len(where)]
        cells = [f"`{name}`", title(name), options, f"{count(name, VIT_B)['peft']:,}", answer]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def print_one(name: str, backbone: str) -> None:
    numbers = count(name, backbone)  # first: it may fail
    print(f"{name}\n{'=' * len(name)}\n{registry.describe(name)}\n")
    fields = dataclasses.fields(registry.options(name))
    print("Options" if fields else "Options: none")
    for field in fields:
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
        kind = str(field.type).replace("typing.", "") if kind in ("", "tuple", "Literal") else kind
        print(f"  {field.name}: {kind} = {field.default!r}")
    print(f"\nParameters on {backbone} (head of 100 classes)")
    print("  " + ", ".join(f"{key} {value:,}" for key, value in numbers.items()))


def export(arguments: argparse.Namespace) -> None:
    # Imports go from benchmarks to methods, and only this command needs to know of runs: hence here
    from benchmarks import export as runs

    if arguments.merged and arguments.out is None:
        raise InputError("--merged: belongs to --out FILE.safetensors")
    delta = runs.find(arguments.run_id, [arguments.results] if arguments.results else None)
    try:
        if arguments.peft:
            print(runs.export_peft(delta, arguments.peft))
        elif arguments.merged:
            print(runs.export_merged(delta, arguments.out, arguments.weights))
        else:
            print(runs.export_delta(delta, arguments.out))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be written: {error.strerror}") from None


def title(name: str) -> str:
    return registry.describe(name).split("\n", 1)[0]


def text(value: object) -> str:
    """An option's default as one types it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def merges_on(name: str, backbone: str) -> bool:
    from .attach import cannot_merge

    try:
        return cannot_merge(attached(name, backbone)) is None
    except MethodError:  # the method is not for this backbone
        return False


def count(name: str, backbone: str) -> dict[str, int]:
    """Trainable parameters of a method with its default options, head of 100 classes."""
    from .attach import parameters

    return parameters(attached(name, backbone))


def attached(name: str, backbone: str):
    """A backbone with a method and its default options, without storage."""
    import timm
    import torch

    from .attach import apply

    if not timm.is_model(backbone.partition(".")[0]):
        known = timm.list_models(["vit_*", "swin_*"], pretrained=True)
        raise MethodError(f"unknown backbone {backbone!r}; {registry.nearest(backbone, known)}")
    try:
        with torch.device("meta"):
            model = timm.create_model(backbone, num_classes=100)
    except RuntimeError as error:  # a tag that the architecture does not have
        known = timm.list_models(f"{backbone.partition('.')[0]}.*", pretrained=True)
        near = registry.nearest(backbone, known)
        raise MethodError(f"unknown backbone {backbone!r}; {near}") from error
    return apply(name, model)


if __name__ == "__main__":
    sys.exit(main())
