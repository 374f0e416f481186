"""Rows of a frozen encoder: each is embedded once, and the heads are trained on what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from qabert.data.orders import BothOrders
from qabert.data.sampling import column, longest_first

#: Embeddings `(rows, width)` of features that the collator can stack.
Embed = Callable[[list[dict[str, Any]]], torch.Tensor]


class EmbeddedRows:
    """A task's features with the embeddings of those rows that have been asked for.

    Args:
        features: As `PromptEncoder` makes them.
    """

    def __init__(self, features: Any) -> None:
        self.features = features
        self.task: str = features[0]["task"]
        self.labels = column(features["labels"])
        self.known = np.zeros(len(features), dtype=bool)
        self.embeddings = np.zeros((0, 0), dtype=np.float32)

    def fill(self, rows: np.ndarray, embed: Embed, batch_size: int, quiet: bool) -> None:
        """Embed those of the rows that haven't been, batches of like length together."""
        missing = np.unique(rows[~self.known[rows]])
        features = self.features.select(missing)
        order = longest_first(features["length"])
        with tqdm(total=len(order), desc=f"{self.task} embedded", unit="row", delay=2, disable=quiet) as bar:
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size]
                columns = features[chosen.tolist()]
                batch = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
                found = embed(batch).float().cpu().numpy()
                if not self.embeddings.size:
                    # Pages of zeros take no memory before they are written to: only rows that are drawn cost any.
                    self.embeddings = np.zeros((len(self.features), found.shape[1]), dtype=np.float32)
                self.embeddings[missing[chosen]] = found
                bar.update(len(chosen))
        self.known[missing] = True


class FrozenFeatures(Dataset):
    """Features for the heads of a frozen encoder, whose rows hold an embedding instead of tokens.

    Args:
        source: Features, or what is shared with other selections of them.
        rows: Which rows, in which order; None means all.
    """

    def __init__(self, source: Any, rows: np.ndarray | None = None) -> None:
        self.source = source if isinstance(source, EmbeddedRows) else EmbeddedRows(source)
        self.rows = np.arange(len(self.source.features)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        """A row, which must have been embedded, or a column by its name."""
        if isinstance(key, str):
            return self.source.features.select(self.rows)[key]
        row = self.rows[key]
        if not self.source.known[row]:
            raise KeyError(f"task '{self.source.task}': row {row} hasn't been embedded")
        embedding = torch.from_numpy(self.source.embeddings[row])
        return {"embedding": embedding, "labels": self.source.labels[row].item(), "task": self.source.task}

    def select(self, rows: Sequence[int] | np.ndarray) -> FrozenFeatures:
        """Some of these rows, in that order; what is embedded of one selection is of all."""
        return FrozenFeatures(self.source, self.rows[np.asarray(rows, dtype=np.int64)])

    def fill(self, embed: Embed, batch_size: int, quiet: bool) -> None:
        """Embed those of these rows that haven't been."""
        self.source.fill(self.rows, embed, batch_size, quiet)


def frozen(features: Any) -> Any:
    """Features as `FrozenFeatures`; of pairs in both orders, either order's."""
    if isinstance(features, BothOrders):
        return BothOrders(FrozenFeatures(features.features), FrozenFeatures(features.exchanged))
    return FrozenFeatures(features)
