"""The command line, rlrr-bench: a file a verb, each a thin door to what exists.

A verb's file has `add(commands)`, which describes its flags, and a function that does it. Only what
is typed is parsed here: beyond this folder nothing knows of argparse. `--help` loads no torch.

Exit codes: 0 done; 1 runs failed, data is wrong, or a file cannot be written; 2 bad input, in one
line; 130 stopped by Ctrl-C; 141 nobody reads the output any more, as after `head`.
"""

import argparse
import importlib
import os
import signal
import sys
from typing import Any, NoReturn

from rich.console import Console

from ...methods.errors import InputError

VERBS = (
    *("run", "sweep", "status", "cancel", "tables", "report", "methods", "audit", "data"),
    *("export", "bench", "demo", "settings", "completion"),
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line, and takes no abbreviated flags."""

    def __init__(self, *positional: Any, **named: Any):
        super().__init__(*positional, **{"allow_abbrev": False, **named})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    """Prints the version and which code this is."""

    def __call__(self, whole: argparse.ArgumentParser, *_: Any) -> None:
        from ...benchmarks import provenance

        print(f"rlrr-bench {provenance.current().version} ({provenance.current().describe()})")
        whole.exit()


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    whole = Parser(
        prog="rlrr-bench",
        description="Fine-tune vision transformers by every method of the RLRR paper, and compare.",
        epilog="`rlrr-bench VERB --help` tells more of each.",
    )
    whole.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = whole.add_subparsers(
        dest="verb", metavar="VERB", required=True, parser_class=Parser, title="verbs"
    )
    for verb in VERBS:
        importlib.import_module(f".{verb}", __package__).add(commands)
    return whole


def main(argv: list[str] | None = None) -> int:
    """Do what was typed; returns the exit code."""
    whole = parser()
    complete(whole)
    arguments = whole.parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        code = arguments.do(arguments, console)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more when it ends
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(getattr(arguments, "stopped", "stopped"), file=sys.stderr)
        return 130


def complete(whole: argparse.ArgumentParser) -> None:
    """Answer the shell, if it is the shell that asks for completions."""
    import argcomplete

    argcomplete.autocomplete(whole)
