"""What answers mean, and the files that hold them; no model is needed here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qabert.errors import InputError
from qabert.files import csv_writer, whole_file
from qabert.tasks import Task


def decide(task: Task, answers: np.ndarray) -> np.ndarray:
    """Predictions of answers: the likeliest class, whether the second label is likelier, or the value itself."""
    if task.problem == "classification":
        return answers.argmax(-1)
    return (answers > 0.5).astype(np.int64) if task.problem == "binary" else answers


def readable(task: Task, answer: np.ndarray) -> dict[str, Any]:
    """One row's answer (probabilities, a probability, or a value) with its label names."""
    if task.problem == "regression":
        return {"value": round(float(answer), 4)}
    # Plain floats: numpy's calls would take longer than the answer itself.
    shares = answer.tolist() if task.problem == "classification" else [1 - float(answer), float(answer)]
    best = shares.index(max(shares)) if task.problem == "classification" else int(shares[1] > 0.5)
    named = {name: round(share, 4) for name, share in zip(task.labels, shares, strict=True)}
    return {"label": task.labels[best], "probabilities": named}


def write_predictions(
    path: Path, task: Task, ids: Sequence[str], answers: np.ndarray, labels: Sequence[Any] | None = None
) -> None:
    """Write one line per row: id, true label where known, prediction, and the probabilities by label name.

    The file is whole or absent: it is written beside its place and renamed.
    """
    predictions = decide(task, answers).tolist()
    shares: list[list[float]] = [[] for _ in predictions]
    if task.problem == "classification":
        shares = answers.tolist()
    elif task.problem == "binary":
        shares = np.stack([1 - answers, answers], axis=-1).tolist()
    names = [] if labels is None else ["label"]
    with whole_file(path) as file:
        writer = csv_writer(file)
        writer.writerow(["id", *names, "prediction", *(f"p({label})" for label in task.labels if shares[:1] != [[]])])
        for number, (row_id, prediction) in enumerate(zip(ids, predictions, strict=True)):
            known = [] if labels is None else [_named(task, labels[number])]
            writer.writerow([row_id, *known, _named(task, prediction), *(f"{share:.9g}" for share in shares[number])])


def write_submission(path: Path, task: Task, ids: Sequence[str], answers: np.ndarray) -> None:
    """Write the course's submission file: its header, then `id , prediction` lines, spaced as its own code does.

    Raises:
        InputError: The task declares no `output`.
    """
    if task.output is None:
        raise InputError(f"task '{task.name}' declares no 'output', so it has no submission file")
    predictions = decide(task, answers)
    if task.problem == "binary":
        predictions = predictions.astype(np.float64)  # the course writes 0.0 and 1.0
    with whole_file(path) as file:
        file.write(f"id \t {task.output[1]} \n")
        file.writelines(f"{row_id} , {p} \n" for row_id, p in zip(ids, predictions.tolist(), strict=True))


def _named(task: Task, value: Any) -> Any:
    return task.labels[int(value)] if task.labels else f"{value:.9g}"  # a float32 comes back as it was
