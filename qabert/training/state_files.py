"""Optimizer, schedule and sums of a run in one safetensors file: nothing that is unpickled.

A nested state becomes its tensors, by name, and a JSON text with the tensors' names in their places.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_TENSOR, _PAIRS = "__tensor__", "__pairs__"


def save_state(path: Path, state: Any) -> None:
    """Write a nested state of dictionaries, lists, tensors and plain values.

    Raises:
        TypeError: It holds something else.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain = _split(state, tensors)
    save_file(tensors, path, metadata={"state": json.dumps(plain)})


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; tensors are on the CPU.

    Raises:
        ValueError: It isn't such a file.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "state" not in metadata:
            raise ValueError(f"{path} holds no state of a run")
        return _join(json.loads(metadata["state"]), file)


def _split(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):  # as pairs: an optimizer's keys are numbers, which JSON would make text of
        return {_PAIRS: [[key, _split(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(inner, tensors) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a {type(value).__name__} can't be part of a saved state")


def _join(value: Any, file: Any) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return file.get_tensor(value[_TENSOR])
        return {key: _join(inner, file) for key, inner in value[_PAIRS]}
    return [_join(inner, file) for inner in value] if isinstance(value, list) else value
