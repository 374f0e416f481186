"""`qabert.train`: what `qabert train` does, from Python."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from qabert.training.recipes import from_keys, read_recipe


def train(recipe: Mapping[str, Any] | str | PathLike[str] | None = None, **keys: Any) -> dict[str, Any]:
    """Train one encoder on several tasks, and write model, scores and predictions to `output_dir`.

    Args:
        recipe: Keys as a recipe has them, or a recipe's file.
        **keys: More of them; they win over the recipe's.  `qabert train --help` says what there is, and every key of
            `transformers.TrainingArguments` is one, too.

    Returns:
        What `metrics.json` holds: `score`, `scores` by task, and more (see `qabert.training.run.train`).

    Raises:
        InputError: An unknown key (the nearest one is suggested), a bad value, rows that can't be used.
        RunError: The run broke off: its message says why and what was kept.
    """
    given = read_recipe(Path(recipe)) if isinstance(recipe, str | PathLike) else dict(recipe or {})
    args = from_keys(given | keys)
    from qabert.training.run import train as run

    return run(args)
