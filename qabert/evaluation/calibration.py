"""How far probabilities can be trusted, and a temperature for each task that makes them so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qabert.evaluation.metrics import task_columns
from qabert.evaluation.mistakes import row_losses
from qabert.tables import table
from qabert.tasks import Task

BINS = 10  # of a reliability diagram
#: Temperatures that are looked at; a model whose best is at an end answers nothing or everything alike.
LOW, HIGH = 0.05, 20.0
FOLDS = 5


def calibration_bins(
    task: Task, labels: ArrayLike, answers: ArrayLike, bins: int = BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Rows by how sure the model is, in bins of equal width from 0 to 1.

    What is counted is the probability of the second label for a binary task, against how often it is the true one, and
    the probability of the likeliest class for a classification, against how often that is right (Guo et al., 2017).

    Args:
        task: A classification or binary task.
        labels: True class indices, shape `(rows,)`.
        answers: Probabilities, `(rows, classes)` or, binary, `(rows,)`.
        bins: How many.

    Returns:
        Mean probability, share of the rows where it came true, and number of rows, each `(bins,)`; NaN in the first two
        where a bin has no row.  The expected calibration error is their mean distance, weighted by rows
        (`calibration_error`).
    """
    check_classes(task)
    probabilities = np.asarray(answers, dtype=np.float64)
    shape = (np.size(labels), len(task.labels))[: 2 if task.problem == "classification" else 1]
    if probabilities.shape != shape:
        raise ValueError(f"task '{task.name}': answers have shape {probabilities.shape}; expected {shape}")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise ValueError(f"task '{task.name}': answers are no probabilities")
    sure = probabilities if probabilities.ndim == 1 else probabilities.max(axis=1)
    chosen = np.ones(len(sure)) if probabilities.ndim == 1 else probabilities.argmax(axis=1)
    chosen, true = task_columns(task, chosen, np.asarray(labels))
    which = np.minimum((sure * bins).astype(np.int64), bins - 1)
    counts = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        mean = np.bincount(which, sure, bins) / counts
        came_true = np.bincount(which, true == chosen, bins) / counts
    return mean, came_true, counts


def calibration_error(mean: NDArray[np.float64], came_true: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Expected calibration error of `calibration_bins`: 0 where 70 % sure is right in 70 % of the rows."""
    return float(np.nansum(np.abs(mean - came_true) * counts) / counts.sum())


def check_classes(task: Task) -> None:
    """Raise a `ValueError` for a regression."""
    if task.problem == "regression":
        raise ValueError(f"task '{task.name}' is a regression; expected one with labels")


def scaled(task: Task, probabilities: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Probabilities as they are with every logit divided by a temperature: over 1 less sure, below 1 surer.

    Args:
        task: A classification or binary task.
        probabilities: `(rows, classes)` or, binary, `(rows,)`.
        temperature: Over 0.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    both = np.stack([1 - given, given], axis=-1) if task.problem == "binary" else given
    logs = np.log(np.clip(both, 1e-30, None)) / temperature
    result = np.exp(logs - logs.max(-1, keepdims=True))
    result /= result.sum(-1, keepdims=True)
    return result[:, 1] if task.problem == "binary" else result


def log_loss(task: Task, labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative logarithm of the true label's probability, in nats."""
    return float(row_losses(task, labels, np.asarray(probabilities, dtype=np.float64)).mean())


def best_temperature(task: Task, labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The temperature with the lowest `log_loss` (Guo et al., 2017, section 4.2)."""
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        return log_loss(task, labels, scaled(task, probabilities, float(np.exp(logarithm))))

    found = minimize_scalar(loss, bounds=(np.log(LOW), np.log(HIGH)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def measure(task: Task, labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """Log loss and expected calibration error, before and after a temperature, and the temperature.

    What comes after is measured on rows that the temperature wasn't fitted to: the rows are cut into `FOLDS` parts at
    random, and each part is scaled by the temperature of the others.

    Args:
        task: A classification or binary task.
        labels: True class indices, `(rows,)`.
        probabilities: `(rows, classes)` or, binary, `(rows,)`.

    Raises:
        ValueError: There are fewer than two rows for each part.
    """
    true, given = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    if len(true) < 2 * FOLDS:
        raise ValueError(f"task '{task.name}': {len(true)} rows; calibration needs {2 * FOLDS} at least")
    part = np.random.default_rng(0).permutation(len(true)) % FOLDS
    after = np.empty_like(given)
    for fold in range(FOLDS):
        others = part != fold
        after[~others] = scaled(task, given[~others], best_temperature(task, true[others], given[others]))
    result = {"temperature": best_temperature(task, true, given)}
    for name, values in (("before", given), ("after", after)):
        result[f"log_loss_{name}"] = log_loss(task, true, values)
        result[f"ece_{name}"] = calibration_error(*calibration_bins(task, true, values))
    return result


def calibration_table(measures: Mapping[str, Mapping[str, float]]) -> str:
    """`measure`'s numbers by task."""
    keys = ("temperature", "ece_before", "ece_after", "log_loss_before", "log_loss_after")
    lines = [[name, *(f"{values[key]:.3f}" for key in keys)] for name, values in measures.items()]
    return table(["task", "temperature", "ECE before", "after", "log loss before", "after"], lines)
