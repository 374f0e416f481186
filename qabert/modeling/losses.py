"""Losses by problem, and the scale in which a regression is learnt.

A regression's labels are mapped from the task's range to [-√3, √3], where evenly spread labels have variance 1: its
mean squared error then starts near 1, of the size of the classifiers' cross entropies, whatever the user's unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

BOUND = 3.0**0.5


def normalise(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Map labels from `[low, high]` to `[-√3, √3]`."""
    return (values - low) / (high - low) * (2 * BOUND) - BOUND


def denormalise(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Map predictions back to the user's unit, cut off at `low` and `high`."""
    return ((values + BOUND) / (2 * BOUND) * (high - low) + low).clamp(low, high)


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, task_range: Sequence[float] | None) -> torch.Tensor:
    """Cross entropy of logits `(batch, classes)` and class indices `(batch,)` or probabilities `(batch, classes)`."""
    return F.cross_entropy(logits, labels.to(logits.dtype) if labels.ndim == 2 else labels.long())


def binary_loss(logits: torch.Tensor, labels: torch.Tensor, task_range: Sequence[float] | None) -> torch.Tensor:
    """Binary cross entropy of logits `(batch, 1)` and labels from 0 to 1 `(batch,)`."""
    return F.binary_cross_entropy_with_logits(logits.squeeze(-1), labels.to(logits.dtype))


def regression_loss(logits: torch.Tensor, labels: torch.Tensor, task_range: Sequence[float] | None) -> torch.Tensor:
    """Mean squared error in the normalised range of logits `(batch, 1)` and labels in the user's unit `(batch,)`."""
    low, high = task_range or (-BOUND, BOUND)
    return F.mse_loss(logits.squeeze(-1), normalise(labels.to(logits.dtype), low, high))


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, Sequence[float] | None], torch.Tensor]] = {
    "classification": classification_loss,
    "binary": binary_loss,
    "regression": regression_loss,
}


def with_prior(logits: torch.Tensor, problem: str, prior: Sequence[float]) -> torch.Tensor:
    """Logits of a model that was trained on evenly drawn labels, for rows whose labels have other shares.

    By Bayes' rule the posterior under the shares p_k instead of 1 / K is the softmax of `logits_k + log p_k` (Saerens
    et al., 2002); for a binary task's one logit it is the sigmoid of `logit + log p_1 - log p_0`.

    Args:
        logits: `(batch, outputs)`.
        problem: `classification` or `binary`.
        prior: Share of each label, none of them 0.
    """
    shift = torch.tensor(prior, dtype=logits.dtype, device=logits.device).log()
    return logits + (shift if problem == "classification" else shift[1] - shift[0])


def activate(logits: torch.Tensor, problem: str, task_range: Sequence[float] | None) -> torch.Tensor:
    """What a user reads instead of logits.

    Returns:
        classification: probabilities `(batch, classes)`; binary: the probability of the second label `(batch,)`;
        regression: the value in the task's unit `(batch,)`.
    """
    logits = logits.float()
    if problem == "classification":
        return logits.softmax(-1)
    if problem == "binary":
        return logits.squeeze(-1).sigmoid()
    low, high = task_range or (-BOUND, BOUND)
    return denormalise(logits.squeeze(-1), low, high)
