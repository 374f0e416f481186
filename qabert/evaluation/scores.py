"""Scores of a trained model over rows, and the table they are shown in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from qabert.answers import decide
from qabert.inference import Predictor
from qabert.tables import table
from qabert.tasks import Task


def answer_rows(predictor: Predictor, task: str, rows: Iterable[Mapping[str, Any]], batch_size: int = 64) -> np.ndarray:
    """Answers to dataset rows (`text_a`, `text_b`), in their order, with a progress bar if it takes over 2 seconds."""
    texts = [(row["text_a"], row["text_b"]) for row in rows]
    parts = []
    with tqdm(total=len(texts), desc=task, unit="row", delay=2) as bar:
        for part in predictor.answers(task, texts, batch_size):
            parts.append(part)
            bar.update(len(part))
    return np.concatenate(parts)


def score_answers(task: Task, answers: np.ndarray, labels: Any) -> dict[str, float]:
    """The task's metrics of answers (see `modeling.losses.activate`) against labels."""
    from qabert.evaluation.hf_metrics import (
        task_metrics,  # `evaluate` takes seconds to import, and answers don't need it
    )

    return task_metrics(task, decide(task, answers), np.asarray(labels))


def result_table(
    tasks: Mapping[str, Task], columns: Mapping[str, Mapping[str, Mapping[str, float]] | None], split: str = "dev"
) -> str:
    """Scores by task and metric, one column per model, and the mean of every task's first metric.

    A model that lacks a task has a `-` there.
    """
    known = {title: scores for title, scores in columns.items() if scores}
    lines = [
        [name, metric, *(f"{scores[name][metric]:.3f}" if name in scores else "-" for scores in known.values())]
        for name, task in tasks.items()
        for metric in task.metrics
    ]
    means = [
        f"{np.mean([scores[name][task.score] for name, task in tasks.items()]):.3f}"
        if set(tasks) <= set(scores)
        else "-"
        for scores in known.values()
    ]
    lines.append(["mean", "first metrics", *means])
    return table(["task", f"metric ({split})", *known], lines)
