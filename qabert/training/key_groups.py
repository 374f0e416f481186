"""How `train --help` and the shells' completion show a run's keys: ours in groups, and the Trainer's."""

from __future__ import annotations

import argparse
import dataclasses
import re
import textwrap
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

#: Our keys by group; `lora_*` is every key that starts so.  A test holds that each key is in exactly one of them.
GROUPS: dict[str, tuple[str, ...]] = {
    "data and tasks": ("data", "tasks", "strict", "cache"),
    "input and encoder": (
        *(
            "encoder",
            "model",
            "format",
            "both_orders",
            "max_length",
            "pooling",
            "dropout",
            "freeze_encoder",
            "attn_implementation",
        ),
        "lora_*",
    ),
    "heads and loss": ("head_*", "layer_decay", "*_smoothing", "loss_weights", "teacher*", "augment"),
    "sampling": ("order", "examples_per_epoch", "weighted_sampling"),
    "answers and scores": ("prior_correction", "eval_examples", "score_untrained", "early_stopping_patience"),
    "triplet stage": ("triplet_*",),
    "run and resume": ("output_dir", "resume", "overwrite"),
    "hub": ("hub_*", "push_*"),
}
OTHER = "other keys"


def group_of(key: str) -> str:
    """The group of one of our keys."""
    for title, patterns in GROUPS.items():
        if any(fnmatchcase(key, pattern) for pattern in patterns):
            return title
    return OTHER


@dataclasses.dataclass(frozen=True)
class TrainerKey:
    """A key of `transformers.TrainingArguments` that a recipe may have; what it is by default, and what it means."""

    name: str
    default: Any
    group: str
    text: str
    choices: tuple[str, ...]


def trainer_keys(defaults: Mapping[str, Any], left_out: set[str]) -> Iterator[TrainerKey]:
    """The Trainer's keys in the order and the groups of its documentation; this imports transformers.

    Args:
        defaults: Ours where they differ.
        left_out: Keys that no recipe may have.
    """
    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser(TrainingArguments)  # type: ignore[arg-type]
    actions = {action.dest: action for action in parser._actions if f"--{action.dest}" in action.option_strings}
    documented = _documented(TrainingArguments.__doc__ or "")
    names = [item.name for item in dataclasses.fields(TrainingArguments) if item.init]
    order = {name: number for number, name in enumerate(documented)}
    for name in sorted(names, key=lambda name: order.get(name, len(order))):
        if name in left_out or name not in documented:  # what isn't documented is on its way out
            continue
        group, text = documented[name]
        action = actions[name]
        boolean = action.nargs == "?" and action.const is True
        choices = ("true", "false") if boolean else tuple(map(str, action.choices or ()))
        yield TrainerKey(name, defaults.get(name, action.default), group, text, choices)


def _documented(text: str) -> dict[str, tuple[str, str]]:
    """Group and first sentence of each key of a docstring in transformers' manner: `> Group`, then `key (type):`."""
    found: dict[str, tuple[str, str]] = {}
    group = "Trainer"
    for part in re.split(r"\n(?= {8}[>\w])", text):
        head, _, body = part.strip().partition("\n")
        if head.startswith(">"):
            group = head.lstrip("> ")
        elif key := re.match(r"(\w+) ?\(.*:$", head):
            sentence = re.split(r"(?<=[.:])\s+(?=[A-Z])", " ".join(body.split()))[0]
            found[key[1]] = (group, sentence.rstrip(".:"))
    return found


def trainer_help(defaults: Mapping[str, Any], left_out: set[str]) -> str:
    """The Trainer's keys with their defaults, as `--help` shows ours; a star where the default is ours."""
    lines = ["Keys of transformers.TrainingArguments, with the default (* where it is ours, not the Trainer's):"]
    group = ""
    for key in trainer_keys(defaults, left_out):
        if key.group != group:
            group = key.group
            lines += ["", f"{group}:"]
        lines.append(f"  --{key.name} [{shown(key.default)}]{' *' if key.name in defaults else ''}")
        lines += textwrap.wrap(key.text, 110, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def shown(default: Any) -> str:
    """A default as `--help` shows it."""
    if default is None or default is dataclasses.MISSING or default == {}:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return str(getattr(default, "value", default))


class ShowTrainerKeys(argparse.Action):
    """`--help-trainer`: print the Trainer's keys, then end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from qabert.training.arguments import TRAINER_DEFAULTS, keys_left_out

        print(trainer_help(TRAINER_DEFAULTS, keys_left_out()))
        parser.exit()
