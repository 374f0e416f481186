"""YAML files, read safely and strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from qabert.errors import InputError

#: Values that a file may stand for; those here have a few hundred.
MAX_VALUES = 100_000
#: What is usually the matter, by a part of what PyYAML says.
_HINTS = {
    "'\\t' that cannot start": "indent with spaces, not tabs",
    "that cannot start any token": "a text that starts with this sign stands in quotes",
    "mapping values are not allowed": "a text with ': ' in it stands in quotes; or the line before lacks its ':'",
    "expected <block end>": "lines of one mapping are indented alike",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping safely.

    Raises:
        InputError: No such file, not UTF-8, not YAML (with line and column), not a mapping, or a key given twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8") from None
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise InputError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        loader = _UniqueKeyLoader(text)
        root = loader.get_single_node()
        _count(root, {})
        values = loader.construct_document(root) if root is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error)
        hint = next((f" ({hint})" for part, hint in _HINTS.items() if part in problem), "")
        raise InputError(f"{path}{place}: not valid YAML: {problem}{hint}") from None
    except Exception as error:  # deep nesting, 2020-13-45, "!!bool maybe": PyYAML lets whatever it met through
        raise InputError(f"{path}: not valid YAML: {type(error).__name__}: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{path}: expected 'key: value' lines at the top, got {type(values).__name__}")
    return values


def _count(node: yaml.Node | None, counts: dict[int, int]) -> int:
    """How many values a node stands for once its aliases are written out: a few lines can stand for gigabytes."""
    if isinstance(node, yaml.ScalarNode) or node is None:
        return 1
    if id(node) not in counts:
        counts[id(node)] = MAX_VALUES  # until it is known: a node inside of itself has no end
        pairs = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counts[id(node)] = 1 + sum(_count(part, counts) for part in pairs)
        if counts[id(node)] > MAX_VALUES:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"aliases (*name) that stand for more than {MAX_VALUES} values, or for themselves",
                node.start_mark,
            )
    return counts[id(node)]


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; here the second one is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen and key_node.value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key_node.value}' stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
