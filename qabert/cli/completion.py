"""`qabert completion bash|zsh|tcsh`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

#: What a flag's value is, where its command has no list of values.
FILES = ("file", "output", "html", "png")
FOLDERS = ("model", "data", "output_dir", "figures", "encoder", "resume")
#: A recipe or a plan comes first, before argparse reads the flags.
FIRST = {"train": "recipe", "reproduce": "plan"}
YAML = ("tasks", *FIRST.values())


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Print a script that completes commands, flags, their values and files.  It takes seconds to make: "
        "keep it.\n\n"
        "  bash   qabert completion bash > ~/.local/share/bash-completion/completions/qabert\n"
        "  zsh    qabert completion zsh > ~/.zfunc/_qabert       # in ~/.zshrc: fpath+=~/.zfunc; compinit\n"
        "  tcsh   qabert completion tcsh > ~/.qabert.tcsh        # in ~/.tcshrc: source ~/.qabert.tcsh",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="whose script")
    return parser


def run(argv: Sequence[str]) -> None:
    """Print the script."""
    args = parser().parse_args(argv)
    import shtab

    print(shtab.complete(whole_parser(), args.shell))


def whole_parser() -> argparse.ArgumentParser:
    """All commands in one parser, each with its flags; training's has the Trainer's keys, too."""
    from qabert.cli import COMMANDS

    whole = argparse.ArgumentParser("qabert")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    for name, (module, what) in COMMANDS.items():
        known = importlib.import_module(module).parser()
        known.description = what
        own = commands.add_parser(name, parents=[known], add_help=False, help=what, description=what)
        if name in FIRST:
            own.add_argument(FIRST[name], nargs="?", help=f"the {FIRST[name]}, a YAML file")
        if name == "train":
            _add_keys(own)
        for action in own._actions:
            if action.dest not in ("help", "version"):
                _complete(action)
    return whole


def _add_keys(own: argparse.ArgumentParser) -> None:
    """Values of our keys, and the Trainer's keys with theirs."""
    from qabert.training.arguments import TRAINER_DEFAULTS, RunArguments, keys_left_out
    from qabert.training.key_groups import trainer_keys

    fields = {item.name: item for item in dataclasses.fields(RunArguments)}
    for action in own._actions:
        if action.dest in fields:
            item = fields[action.dest]
            action.choices = item.metadata.get("choices") or (("true", "false") if item.type == "bool" else None)
    for key in trainer_keys(TRAINER_DEFAULTS, keys_left_out()):
        own.add_argument(f"--{key.name}", choices=key.choices or None, help=key.text.replace("%", "%%"))


def _complete(action: Any) -> None:
    import shtab

    if action.dest in YAML:
        action.complete = shtab.glob("*.yaml", "*.yml")
    elif action.dest in FILES:
        action.complete = shtab.FILE
    elif action.dest in FOLDERS:
        action.complete = shtab.DIRECTORY
