"""Write what a run has trained to a file: its tensors, a plain timm model, or a PEFT adapter.

    rlrr-bench export RUN_ID --out delta.safetensors                what was trained
    rlrr-bench export RUN_ID --out merged.safetensors --merged      a plain timm state dict
    rlrr-bench export RUN_ID --peft DIR                             LoRA for Hugging Face PEFT

RUN_ID is the name of a record in results/<profile>/runs and a column of the table's CSV.
"""

import argparse
from pathlib import Path

from rich.console import Console

from ...methods.errors import InputError
from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "export", __doc__, "write what a run has trained to a file")
    parser.set_defaults(do=do)
    parser.add_argument("run_id", metavar="RUN_ID")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--out", type=Path, metavar="FILE.safetensors", help="the trained tensors")
    form.add_argument("--peft", type=Path, metavar="DIR", help="LoRA as a PEFT adapter folder")
    parser.add_argument("--merged", action="store_true", help="--out: a plain timm state dict")
    parser.add_argument("--weights", metavar="PATH", help="--merged: the backbone's, as in a sweep")
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: all under results/")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py")


def do(arguments: argparse.Namespace, console: Console) -> int:
    from ...benchmarks import export

    flags.add_plugins(arguments.plugin)
    if arguments.merged and arguments.out is None:
        raise InputError("--merged: belongs to --out FILE.safetensors")
    folders = [arguments.results] if arguments.results else sorted(flags.RESULTS.glob("*"))
    delta = export.find(arguments.run_id, folders)
    try:
        if arguments.peft:
            written = export.export_peft(delta, arguments.peft)
        elif arguments.merged:
            written = export.export_merged(delta, arguments.out, arguments.weights)
        else:
            written = export.export_delta(delta, arguments.out)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be written: {error.strerror}") from None
    console.print(written, markup=False, soft_wrap=True)
    return 0
