"""Print the settings for a SLURM cluster with their explanations, to copy and edit:

rlrr-bench settings > site.yaml
rlrr-bench sweep --table 2 --data DIR --settings site.yaml
"""

import argparse

from rich.console import Console

from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "settings", __doc__, "print the SLURM settings, to copy and edit")
    parser.set_defaults(do=do)


def do(arguments: argparse.Namespace, console: Console) -> int:
    print(flags.slurm_settings.DEFAULTS.read_text(encoding="utf-8"), end="")
    return 0
