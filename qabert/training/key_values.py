"""A key's value from YAML or a flag as the type that the key has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qabert.errors import InputError, unknown


def coerce(item: dataclasses.Field[Any], value: Any) -> Any:
    """A value from YAML or a flag as the field's type; YAML reads `5e-5` and flags read everything as text."""
    kind = str(item.type)
    if value is None and ("None" in kind or kind == "Any"):
        return None
    if kind == "Any":
        return value
    if kind.startswith("dict"):
        return _by_task_names(item.name, value) if "list" in kind else by_task_numbers(item.name, value)
    expected = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}[
        kind.split(" ")[0]
    ]
    error = InputError(f"key '{item.name}' has {value!r}; expected {expected}")
    if kind.startswith("bool"):
        text = str(value).lower()
        if text not in ("true", "false"):
            raise error
        return text == "true"
    if isinstance(value, bool | list | dict) or value is None:
        raise error
    try:
        result = {"str": str, "int": int, "float": float}[kind.split(" ")[0]](value)
    except (ValueError, OverflowError):
        raise error from None
    if kind.startswith("int") and isinstance(value, float) and value != result:
        raise error
    choices, low, high = (item.metadata.get(key) for key in ("choices", "low", "high"))
    if choices and result not in choices:
        raise unknown("value", result, choices, f"key '{item.name}'")
    if (low is not None and not result >= low) or (high is not None and not result <= high):
        span = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"key '{item.name}' has {value!r}; expected {expected} {span}")
    if isinstance(result, float) and result in (float("inf"), float("-inf")):
        raise error
    return result


def _by_task_names(name: str, value: Any) -> dict[str, list[str]]:
    """`{task: [name, …]}`, from a recipe's names or lists of them, or from the flag's text `sst=runs/a,sts=runs/b`."""
    error = InputError(f"key '{name}' has {value!r}; expected a model, or a list of them, by task: sst=runs/large")
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        value = {}
        for task, _, model in pairs:
            value.setdefault(task.strip(), []).append(model.strip())
    if not isinstance(value, Mapping):
        raise error
    found = {str(task): [names] if isinstance(names, str) else names for task, names in value.items()}
    for names in found.values():
        if not isinstance(names, list) or not names or not all(isinstance(one, str) and one for one in names):
            raise error
    return found


def by_task_numbers(name: str, value: Any) -> dict[str, Any]:
    """`{task: number}` of the key `name`, also from the flag's text `quora=8000,sst=500`.

    Raises:
        InputError: It is none, or a number is out of range.
    """
    kind = float if name == "loss_weights" else int
    what, example = ("rows", "quora=8000") if kind is int else ("a number", "sst=2")
    error = InputError(f"key '{name}' has {value!r}; expected {what} by task, such as {example}")
    if isinstance(value, str):
        parts = [part.split("=") for part in value.split(",") if part.strip()]
        if not all(len(part) == 2 for part in parts):
            raise error
        value = {key.strip(): number.strip() for key, number in parts}
    if not isinstance(value, Mapping):
        raise error
    numbers: dict[str, Any] = {}
    for task, number in value.items():
        try:
            numbers[str(task)] = found = kind(str(number))
        except ValueError:
            raise error from None
        if kind is float and not 0 < found < float("inf"):
            raise InputError(f"key '{name}', task '{task}': {number}; expected a number over 0")
        least = 0 if name == "examples_per_epoch" else 1  # `load_tasks` says of which tasks 0 may be
        if kind is int and not least <= found < 2**31:
            raise InputError(f"key '{name}', task '{task}': {number} rows; expected at least 1, below 2**31")
    return numbers
