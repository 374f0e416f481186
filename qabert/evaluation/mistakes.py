"""The rows that a model's answers are furthest from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qabert.answers import readable
from qabert.tasks import Task


def row_losses(task: Task, labels: Any, answers: np.ndarray) -> np.ndarray:
    """How far each answer is from the row's label.

    Args:
        task: The rows' task.
        labels: True class indices or values, `(rows,)`.
        answers: See `losses.activate`.

    Returns:
        `(rows,)`: the negative logarithm of the true label's probability, in nats; of a regression the distance, in its
        unit.
    """
    true = np.asarray(labels)
    if task.problem == "regression":
        return np.abs(answers - true)
    shares = answers if task.problem == "classification" else np.stack([1 - answers, answers], axis=-1)
    return -np.log(np.clip(shares[np.arange(len(true)), true.astype(np.int64)], 1e-30, None))


def worst_rows(task: Task, rows: Any, answers: np.ndarray, count: int) -> Iterator[dict[str, Any]]:
    """The rows with the largest `row_losses`, the largest first: id, label, what was answered, and the sentences.

    Args:
        task: The rows' task.
        rows: Columns `id`, `text_a`, `text_b` and `label`.
        answers: To all of the rows, in their order.
        count: How many; fewer where there are fewer.
    """
    losses = row_losses(task, rows["label"], answers)
    for number in np.argsort(-losses, kind="stable")[:count].tolist():
        row: Mapping[str, Any] = rows[number]
        answer = readable(task, answers[number])
        yield {
            "task": task.name,
            "id": row["id"],
            "label": task.labels[int(row["label"])] if task.labels else round(float(row["label"]), 4),
            "answer": answer.get("label", answer.get("value")),
            "loss": round(float(losses[number]), 4),
            "text_a": row["text_a"],
            **({"text_b": row["text_b"]} if task.pair else {}),
        }
