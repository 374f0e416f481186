"""Both orders of a pair, for tasks whose answer doesn't depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset


class BothOrders(Dataset):
    """Features of rows and, row by row, of the same rows with their sentences exchanged.

    Training draws a row in either order; an evaluation averages the answers to both.

    Args:
        features: As `PromptEncoder` makes them.
        exchanged: Those of the same rows, exchanged.
    """

    def __init__(self, features: Any, exchanged: Any) -> None:
        self.features, self.exchanged = features, exchanged

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, key: Any) -> Any:
        """A row as it was given, or a column by its name."""
        return self.features[key]

    def select(self, rows: Sequence[int] | np.ndarray) -> BothOrders:
        """Some of these rows, in that order."""
        return BothOrders(self.features.select(rows), self.exchanged.select(rows))

    @property
    def both(self) -> ConcatDataset:
        """All rows as they were given, then all of them exchanged."""
        return ConcatDataset([self.features, self.exchanged])


def joined(features: Any, more: Any) -> Any:
    """Features of rows and then of further rows of the same task, both of them `BothOrders` or neither."""
    if isinstance(features, BothOrders):
        return BothOrders(joined(features.features, more.features), joined(features.exchanged, more.exchanged))
    import datasets

    return datasets.concatenate_datasets([features, more])
