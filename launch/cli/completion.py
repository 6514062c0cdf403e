"""Print what makes your shell complete this command's verbs, flags and their values:

eval "$(rlrr-bench completion bash)"      in ~/.bashrc, or zsh in ~/.zshrc
rlrr-bench completion fish | source
"""

import argparse

from rich.console import Console

from . import flags


def add(commands: flags.Commands) -> None:
    parser = flags.verb(commands, "completion", __doc__, "print your shell's completion script")
    parser.set_defaults(do=do)
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh"))


def do(arguments: argparse.Namespace, console: Console) -> int:
    import argcomplete

    print(argcomplete.shellcode(["rlrr-bench"], shell=arguments.shell))
    return 0
