"""A recipe and flags in, `RunArguments` out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qabert.errors import InputError, suggest
from qabert.training.arguments import RunArguments, own_fields
from qabert.training.key_groups import GROUPS, OTHER, ShowTrainerKeys, group_of, shown
from qabert.yaml_files import read_yaml


def build_parser(description: str) -> argparse.ArgumentParser:
    """The command line of a training script: a recipe and our keys; the Trainer's are taken as they come."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [RECIPE.yaml] [--key VALUE …]",
        description=f"{description}  RECIPE.yaml is a file of keys; flags override them.",
        epilog="Every key of transformers.TrainingArguments is a flag too (--learning_rate 2e-5 --bf16 true …): "
        "--help-trainer lists them.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    sections = {title: parser.add_argument_group(title) for title in (*GROUPS, OTHER)}
    for item in own_fields():
        choices = f" ({', '.join(item.metadata['choices'])})" if "choices" in item.metadata else ""
        text = f"{item.metadata['help']}{choices} [{shown(item.default)}]"
        boolean: dict[str, Any] = {"nargs": "?", "const": "true"} if item.type == "bool" else {}
        sections[group_of(item.name)].add_argument(f"--{item.name}", metavar="VALUE", help=text, **boolean)
    more = parser.add_argument_group("help")
    more.add_argument("-h", "--help", action="help", help="this text")
    more.add_argument("--help-trainer", action=ShowTrainerKeys, nargs=0, help="the Trainer's keys and their defaults")
    return parser


def parse(argv: Sequence[str], description: str = "Train.") -> RunArguments:
    """Read the recipe and the flags.

    Raises:
        InputError: No such recipe, an unknown key (the nearest one is suggested), a bad value.
    """
    # The recipe comes first: after a flag that argparse doesn't know it couldn't be told from the flag's value.
    recipe, flags = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    known, rest = build_parser(description).parse_known_args(flags)
    values = read_recipe(Path(recipe)) if recipe is not None else {}
    values.update(vars(known))
    return from_keys(values | flag_pairs(rest))


def from_keys(values: Mapping[str, Any]) -> RunArguments:
    """The arguments of a recipe's keys, ours and the Trainer's.

    Raises:
        InputError: An unknown key (the nearest one is suggested), a bad value.
    """
    own = {item.name for item in own_fields()}
    other = {key: value for key, value in values.items() if key not in own}
    mine = {key: value for key, value in values.items() if key in own}
    arguments = RunArguments(**mine, trainer=other, given=frozenset(mine))
    if other:
        arguments.training_arguments()  # imports transformers, so only where there is something to check
    return arguments


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe's keys; the file of tasks that it names is beside it."""
    if not os.path.isfile(path):  # unlike Path's, os.path's tests don't raise at a name that is too long
        folder = path.parent if os.path.isdir(path.parent) else Path()
        names = [str(file) for file in sorted([*folder.glob("*.yaml"), *Path("scripts/recipes").glob("*.yaml")])]
        raise InputError(
            f"recipe '{path}': no such file{suggest(str(path), names)}; there are: {', '.join(names) or '-'}"
        )
    values = read_yaml(path)
    tasks = values.get("tasks")
    if isinstance(tasks, str) and tasks.endswith((".yaml", ".yml")) and not Path(tasks).is_absolute():
        values["tasks"] = str(path.parent / tasks)
    return values


def flag_pairs(words: Sequence[str]) -> dict[str, Any]:
    """`--key value`, `--key=value` and a bare `--key` (true) of keys that argparse doesn't know."""
    pairs: dict[str, Any] = {}
    key = None
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")  # not in the value: 5e-5
            pairs[key] = _value(value) if equals else True
            key = None if equals else key
        elif key is None:
            raise InputError(f"'{word}' belongs to no flag; expected [RECIPE.yaml] first, then --key VALUE")
        else:
            pairs[key], key = _value(word), None
    return pairs


def _value(text: str) -> Any:
    """A flag's text as YAML would read it; text that YAML can't read stays text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # `!!bool x`, `[[[[…`
        return text
    return value if isinstance(value, str | int | float | bool | list | dict) else text
