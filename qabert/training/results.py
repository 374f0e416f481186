"""What a run leaves: its scores by task, warnings, `metrics.json`, the card, and a place on the hub."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from qabert.errors import InputError, RunError
from qabert.hub.card import CARD, write_card
from qabert.hub.push import push_to_hub
from qabert.tasks import Task
from qabert.training.arguments import RunArguments
from qabert.training.output import described


def unlearnt(
    tasks: Mapping[str, Task],
    history: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, float]],
    majority: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """A line for each task that was never better than one answer for every row, in any evaluation of the run."""
    lines = []
    for name, task in tasks.items():
        key = f"eval_{name}/{task.score}"
        seen = [entry[key] for entry in history if key in entry] + [scores[name][task.score]]
        if max(seen) <= majority[name][task.score] + 1e-6:
            lines.append(
                f"task '{name}' was never better than one answer for every row: {task.score} {max(seen):.3f} at best "
                f"in {len(seen)} evaluations, {majority[name][task.score]:.3f} for that answer; more epochs, another "
                "learning_rate or fewer head_blocks may help, or its labels don't follow from its sentences"
            )
    return lines


def by_task(metrics: Mapping[str, float], prefix: str, tasks: Mapping[str, Task]) -> dict[str, dict[str, float]]:
    """Scores by task and metric, of an evaluation's flat ones."""
    return {
        name: {metric: metrics[f"{prefix}_{name}/{metric}"] for metric in (*task.metrics, "loss")}
        for name, task in tasks.items()
    }


def circumstances(args: RunArguments, tasks: Mapping[str, Task], training_args: TrainingArguments) -> dict[str, Any]:
    """What a run was told, and where and with what it ran."""
    packages = ("torch", "transformers", "datasets", "accelerate", "evaluate")
    return {
        "arguments": described(args, tasks),
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "processes": training_args.world_size},
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
    }


def publish(args: RunArguments, output: Path) -> None:
    """Write the card, which needs nothing but the run's files, and push where that is wished."""
    if not (output / CARD).exists():
        write_card(output, args.hub_model_id)
    if args.push_to_hub and args.hub_model_id:
        try:
            print(f"pushed to {push_to_hub(output, args.hub_model_id, args.hub_private_repo)}")
        except InputError as error:  # by now it is no longer the input that the run ends with
            raise RunError(str(error)) from error
