"""The metrics: plain functions, each task's scores, the one score of them all, and the baseline to beat.

The same metrics as `evaluate.Metric` subclasses stand in `qabert.evaluation.hf_metrics`; `import evaluate` takes
seconds, so that module is imported where it is used (`load_metric`, `task_metrics`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qabert.tasks import Task


def accuracy(predictions: ArrayLike, references: ArrayLike) -> float:
    """Share of the rows whose predicted class is the true one.

    Args:
        predictions: Class indices, shape `(rows,)`.
        references: Class indices, shape `(rows,)`.

    Raises:
        ValueError: Values that aren't whole numbers (probabilities, say), NaN, no rows, or unequal lengths.

    Example:
        >>> accuracy([0, 1, 1, 0], [0, 1, 0, 0])
        0.75
    """
    predicted, true = _classes(predictions, references)
    return float(np.mean(predicted == true))


def macro_f1(predictions: ArrayLike, references: ArrayLike) -> float:
    """Unweighted mean of the F1 of each class that is predicted or true anywhere.

    Args:
        predictions: Class indices, shape `(rows,)`.
        references: Class indices, shape `(rows,)`.

    Raises:
        ValueError: As for `accuracy`.

    Example:
        >>> macro_f1([0, 1, 2], [0, 1, 2])
        1.0
    """
    predicted, true = _classes(predictions, references)
    from sklearn.metrics import f1_score  # a second's import, before the first step of a run

    return float(f1_score(true, predicted, average="macro", zero_division=0))


def f1(predictions: ArrayLike, references: ArrayLike) -> float:
    """F1 of class 1; 0.0 where class 1 is neither predicted nor true.

    Args:
        predictions: 0 or 1, shape `(rows,)`.
        references: 0 or 1, shape `(rows,)`.

    Raises:
        ValueError: As for `accuracy`, or a value other than 0 and 1.

    Example:
        >>> f1([1, 1, 0, 0], [1, 0, 0, 0])
        0.6666666666666666
    """
    predicted, true = _classes(predictions, references)
    _check_range(predicted, true, 2)
    from sklearn.metrics import f1_score

    return float(f1_score(true, predicted, pos_label=1, zero_division=0))


def pearson(predictions: ArrayLike, references: ArrayLike) -> float:
    """Pearson's correlation, and 0.0 where it is undefined: one row, or either side constant.

    A model that answers the same number everywhere has learnt nothing, which 0.0 says and NaN would hide: NaN can't
    be compared, so it would break the choice of the best model.

    Args:
        predictions: Numbers in any unit, shape `(rows,)`.
        references: Numbers in any unit, shape `(rows,)`.

    Raises:
        ValueError: NaN or infinite values, no rows, or unequal lengths.

    Example:
        >>> round(pearson([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]), 6)
        1.0
        >>> pearson([2.5, 2.5, 2.5], [10.0, 20.0, 30.0])
        0.0
    """
    predicted, true = _columns(predictions, references)
    from scipy import stats

    return 0.0 if _constant(predicted) or _constant(true) else float(stats.pearsonr(predicted, true).statistic)


def spearman(predictions: ArrayLike, references: ArrayLike) -> float:
    """Spearman's rank correlation (ties share their mean rank), and 0.0 where it is undefined, as for `pearson`.

    Args:
        predictions: Numbers in any unit, shape `(rows,)`.
        references: Numbers in any unit, shape `(rows,)`.

    Raises:
        ValueError: As for `pearson`.

    Example:
        >>> round(spearman([1.0, 2.0, 300.0], [10.0, 20.0, 30.0]), 6)
        1.0
    """
    predicted, true = _columns(predictions, references)
    from scipy import stats

    return pearson(stats.rankdata(predicted), stats.rankdata(true))


#: Every metric that a task may name, by that name.
METRIC_FUNCTIONS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "f1": f1,
    "pearson": pearson,
    "spearman": spearman,
}


def multitask_score(scores: Mapping[str, float]) -> float:
    """The number that selects the best model: the mean of every task's first metric.

    Args:
        scores: The first metric of each task, by the task's name.

    Raises:
        ValueError: There is no task, or a score is NaN.

    Example:
        >>> multitask_score({"sst": 0.5, "sts": 0.75})
        0.625
    """
    if not scores:
        raise ValueError("there is no score to average")
    for name, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(f"the score of task '{name}' is {score}")
    return math.fsum(scores.values()) / len(scores)


def majority_baseline(task: Task, train_labels: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """The task's metrics for a model that always answers the same.

    It answers the most frequent class of the training split (of equally frequent ones the first), or its mean label in
    a regression, whose correlations are therefore 0.0.

    Args:
        task: The task.
        train_labels: Labels of the training split, as in `task_metrics`, shape `(train rows,)`.
        references: True labels of the split that is judged, shape `(rows,)`.

    Raises:
        ValueError: As for `task_metrics`, or there are no training labels.

    Example:
        >>> from qabert.tasks import QUORA
        >>> majority_baseline(QUORA, [0, 0, 1], [0, 1])
        {'accuracy': 0.5, 'f1': 0.0}
    """
    if not np.size(train_labels):
        raise ValueError(f"task '{task.name}': there are no training labels")
    labels, _ = task_columns(task, train_labels, train_labels)
    answer = labels.mean() if task.problem == "regression" else np.bincount(labels).argmax()
    predicted, true = task_columns(task, np.full(np.shape(references), answer), references)
    return {name: METRIC_FUNCTIONS[name](predicted, true) for name in task.metrics}


def task_columns(task: Task, predictions: ArrayLike, references: ArrayLike) -> tuple[NDArray, NDArray]:
    try:
        if task.problem == "regression":
            return _columns(predictions, references)
        predicted, true = _classes(predictions, references)
        _check_range(predicted, true, len(task.labels))
        return predicted, true
    except ValueError as error:
        raise ValueError(f"task '{task.name}': {error}") from None


def _columns(predictions: ArrayLike, references: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64 of one shape `(rows,)`, at least one row, all finite."""
    columns = []
    for what, values in (("predictions", predictions), ("references", references)):
        column = np.asarray(values)
        if column.ndim != 1 or not len(column):
            raise ValueError(f"{what} have shape {column.shape}; expected (rows,) with at least one row")
        if column.dtype.kind not in "biuf":
            raise ValueError(f"{what} are not numbers but {column.dtype}")
        column = column.astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(column))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(column)} {what} are NaN or infinite, the first in row {bad[0]}"
                + (" (has the training diverged?)" if what == "predictions" else "")
            )
        columns.append(column)
    predicted, true = columns
    if len(predicted) != len(true):
        raise ValueError(f"there are {len(predicted)} predictions and {len(true)} references")
    return predicted, true


def _classes(predictions: ArrayLike, references: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    columns = _columns(predictions, references)
    for what, column in zip(("predictions", "references"), columns, strict=True):
        bad = np.flatnonzero(column != np.floor(column))
        if len(bad):  # a cast would turn a probability of 0.9 into class 0 without a word
            raise ValueError(f"{what} are not class indices: row {bad[0]} has {column[bad[0]]:g}")
    predicted, true = columns
    return predicted.astype(np.int64), true.astype(np.int64)


def _check_range(predicted: NDArray[np.int64], true: NDArray[np.int64], classes: int) -> None:
    for what, column in (("predictions", predicted), ("references", true)):
        bad = np.flatnonzero((column < 0) | (column >= classes))
        if len(bad):
            raise ValueError(f"{what}: row {bad[0]} has class {column[bad[0]]}; expected 0 to {classes - 1}")


def _constant(column: NDArray[np.float64]) -> bool:
    """Whether the values differ by no more than rounding; there scipy warns and its result means nothing."""
    mean = column.mean()
    return bool((column == column[0]).all() or np.linalg.norm(column - mean) < 1e-13 * abs(mean))
