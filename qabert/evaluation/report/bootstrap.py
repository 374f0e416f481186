"""How sure is a difference between two models?  The paired bootstrap over dev rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qabert.answers import decide
from qabert.evaluation.metrics import METRIC_FUNCTIONS
from qabert.tasks import Task

#: Weights (samples × patterns) that are held at once: few enough for a processor's cache.
_CELLS = 300_000


@dataclass(frozen=True)
class Difference:
    """A score of model b minus that of model a, in the score's unit (shares of 1, correlations).

    Args:
        mean: Mean over the seeds, on all rows.
        low: Lower end of the 95 % percentile interval over resampled rows.
        high: Its upper end.
        p_value: Two-sided: how often a resample's difference falls on the other side of 0, doubled.
        by_seed: The difference of each seed, on all rows.
    """

    mean: float
    low: float
    high: float
    p_value: float
    by_seed: tuple[float, ...]

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n − 1); None below three seeds, where it says nothing."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) >= 3 else None

    @property
    def shown(self) -> bool:
        """Whether the interval leaves 0 out and no seed's difference points the other way."""
        one_side = min(self.by_seed) >= 0 or max(self.by_seed) <= 0
        return (self.low > 0 or self.high < 0) and one_side


def paired_bootstrap(
    task: Task,
    metric: str,
    labels: np.ndarray,
    answers_a: Sequence[np.ndarray],
    answers_b: Sequence[np.ndarray],
    samples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Difference b − a of a metric, with an interval from resampled rows (Efron & Tibshirani 1993, chapters 13 and 16).

    Each sample draws as many rows as there are, with replacement, the same for both models and all seeds; its
    difference is the mean over seeds of metric(b) − metric(a).  Ranks are those within the sample.  The interval holds
    for other rows of the same kind and these trained models; it knows nothing of the noise between trainings.

    Args:
        task: Says how answers become predictions.
        metric: One of `evaluation.metrics.METRIC_FUNCTIONS`.
        labels: Shape `(rows,)`.
        answers_a: For each seed the answers of model a (see `modeling.losses.activate`).
        answers_b: For the same seeds those of model b.
        samples: Resamples.
        seed: Of the resampling; the same arguments give the same interval.

    Raises:
        ValueError: No seeds, different numbers of seeds or rows, or fewer than one sample.

    Example:
        >>> from qabert.tasks import QUORA
        >>> labels, even, odd = np.arange(100) % 2, np.zeros(100), np.arange(100) % 2 * 0.9
        >>> paired_bootstrap(QUORA, "accuracy", labels, [even], [odd]).mean
        0.5
    """
    if not len(answers_a) or len(answers_a) != len(answers_b) or samples < 1:
        given = f"{len(answers_a)} and {len(answers_b)} seeds, {samples} samples"
        raise ValueError(f"{given}; expected as many seeds of both models, and at least one of each")
    true = np.asarray(labels)
    predictions = [decide(task, np.asarray(answers)) for answers in (*answers_a, *answers_b)]
    by_model = [METRIC_FUNCTIONS[metric](predicted, true) for predicted in predictions]  # checks lengths and values
    seeds = len(answers_a)
    by_seed = tuple(b - a for a, b in zip(by_model[:seeds], by_model[seeds:], strict=True))

    # Rows with equal labels and predictions count alike: a sample is how often each such pattern is drawn.
    patterns, pattern_of = np.unique(np.stack([true, *predictions]), axis=1, return_inverse=True)
    pattern_of = pattern_of.reshape(-1)
    score = _WEIGHTED[metric](patterns[0], patterns[1:])
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // max(len(true), patterns.shape[1]))
    parts = []
    for first in range(0, samples, at_once):
        count = min(at_once, samples - first)
        drawn = pattern_of[rng.integers(len(true), size=(count, len(true)))]
        drawn += np.arange(count)[:, None] * patterns.shape[1]
        weights = np.bincount(drawn.reshape(-1), minlength=count * patterns.shape[1]).reshape(count, -1)
        scores = score(weights.astype(np.float64))
        parts.append(np.mean(scores[seeds:], axis=0) - np.mean(scores[:seeds], axis=0))
    differences = np.round(np.concatenate(parts), 12) + 0.0  # what cancels is 0, not a rounding error on one side of it
    low, high = np.quantile(differences, [0.025, 0.975])
    # One is added to both counts: a p-value of 0 can't be had from finitely many samples (Davison & Hinkley 1997, 4.2).
    beyond = 1 + min(np.sum(differences <= 0), np.sum(differences >= 0))
    p_value = min(1.0, 2 * float(beyond) / (samples + 1))
    return Difference(float(np.mean(by_seed)), float(low), float(high), p_value, by_seed)


# Each of these takes the patterns' labels (patterns,) and predictions (models, patterns), and returns a function of
# weights (samples, patterns), how often each pattern was drawn, to the metric of each sample, (models, samples).
_Weighted = Callable[[np.ndarray], np.ndarray]


def _accuracy(true: np.ndarray, predicted: np.ndarray) -> _Weighted:
    right = (true == predicted).astype(np.float64)
    return lambda weights: right @ weights.T / weights.sum(-1)


def _class_f1(true: np.ndarray, predicted: np.ndarray, label: float) -> _Weighted:
    """F1 of one class; NaN where it is neither predicted nor true."""
    hits = ((true == label) & (predicted == label)).astype(np.float64)
    either = (true == label).astype(np.float64) + (predicted == label)

    def score(weights: np.ndarray) -> np.ndarray:
        twice, counted = 2 * (hits @ weights.T), either @ weights.T
        return np.divide(twice, counted, out=np.full(counted.shape, np.nan), where=counted > 0)

    return score


def _f1(true: np.ndarray, predicted: np.ndarray) -> _Weighted:
    positive = _class_f1(true, predicted, 1)
    return lambda weights: np.nan_to_num(positive(weights))


def _macro_f1(true: np.ndarray, predicted: np.ndarray) -> _Weighted:
    classes = [_class_f1(true, predicted, label) for label in np.union1d(true, predicted)]
    return lambda weights: np.nanmean([score(weights) for score in classes], axis=0)


def _pearson(true: np.ndarray, predicted: np.ndarray) -> _Weighted:
    x, y = true - true.mean(), predicted - predicted.mean(-1, keepdims=True)

    def score(weights: np.ndarray) -> np.ndarray:
        rows = weights.sum(-1)
        mean_x, mean_y = x @ weights.T / rows, y @ weights.T / rows
        var_x, var_y = (x * x) @ weights.T / rows - mean_x**2, (y * y) @ weights.T / rows - mean_y**2
        # What a constant side leaves is rounding: some 1e-16 of the squares that were subtracted.
        real = (var_x > 1e-13 * np.max(x * x)) & (var_y > 1e-13 * np.max(y * y, axis=-1, keepdims=True))
        scale = np.sqrt(np.maximum(var_x, 0) * np.maximum(var_y, 0))
        covariance = (x * y) @ weights.T / rows - mean_x * mean_y
        return np.divide(covariance, scale, out=np.zeros(scale.shape), where=real)

    return score


def _spearman(true: np.ndarray, predicted: np.ndarray) -> _Weighted:
    true_ranks, predicted_ranks = _Ranks(true), [_Ranks(column) for column in predicted]

    def score(weights: np.ndarray) -> np.ndarray:
        x = true_ranks(weights)
        weighted = weights * x
        square = np.einsum("sp,sp->s", weighted, x)
        scores = []
        for ranks in predicted_ranks:
            y = ranks(weights)
            scale = np.sqrt(square * np.einsum("sp,sp->s", weights * y, y))
            product = np.einsum("sp,sp->s", weighted, y)
            scores.append(np.divide(product, scale, out=np.zeros(len(weights)), where=scale > 0))
        return np.stack(scores)

    return score


class _Ranks:
    """Ranks within each sample, less their mean: as many as rows come before, and half of the rows that are equal."""

    def __init__(self, values: np.ndarray) -> None:
        _, group = np.unique(values, return_inverse=True)
        self.group = group.reshape(-1)
        self.order = np.argsort(self.group, kind="stable")
        self.starts = np.flatnonzero(np.diff(self.group[self.order], prepend=-1))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        equal = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        ranks = np.cumsum(equal, axis=1) - (equal - 1) / 2
        return ranks[:, self.group] - (weights.sum(-1, keepdims=True) + 1) / 2


_WEIGHTED: dict[str, Callable[[np.ndarray, np.ndarray], _Weighted]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "f1": _f1,
    "pearson": _pearson,
    "spearman": _spearman,
}
