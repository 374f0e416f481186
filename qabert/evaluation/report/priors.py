"""Answers of models that were trained on evenly drawn labels, with the rows' own label shares as prior."""

from __future__ import annotations

import numpy as np

from qabert.evaluation.report.reproduction import Run
from qabert.tasks import Task


def training_shares(run: Run, task: str) -> np.ndarray | None:
    """Share of each label in the run's training rows, as if each had been seen once more (as `run.label_priors`).

    Returns:
        Shape `(labels,)`; None for a regression, and where the run's data summary has no shares.
    """
    summary = run.metrics.get("data", {}).get(task, {}).get("train", {})
    shares = summary.get("label_shares", {})
    labels = run.tasks[task].labels
    if not labels or any(label not in shares for label in labels):
        return None
    counts = np.rint(np.array([shares[label] for label in labels]) * summary.get("used", 0)) + 1
    return counts / counts.sum()


def needs_prior(run: Run) -> bool:
    """Whether the run drew every label equally often and its answers still believe that all are equally frequent."""
    arguments = run.metrics["arguments"]
    return bool(arguments.get("weighted_sampling")) and not arguments.get("prior_correction")


def with_prior(task: Task, answers: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Answers of a model trained on evenly drawn labels, with label shares as prior: p(k) · share(k), renormalised.

    Args:
        task: A task with labels.
        answers: Shape `(rows, classes)`, or `(rows,)` of a binary task.
        shares: Shape `(labels,)`.
    """
    if task.problem == "binary":
        second = answers * shares[1]
        return second / (second + (1 - answers) * shares[0])
    weighted = answers * shares
    return weighted / weighted.sum(-1, keepdims=True)
