"""Features of one task to one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class DataCollator:
    """Stack the inputs of a batch along its first axis: all first segments, then all second ones.

    One encoder call then serves every format; the model folds the segments back.  Returns `labels` `(batch,)` and a
    `teacher`'s answers where the features have them, `input_ids`, `attention_mask` and, where the tokenizer makes them,
    `token_type_ids`, all `(segments × batch, longest)`, and the name of the `task`.  Features that were embedded
    already have `embedding` `(batch, width)` instead of tokens.

    Args:
        tokenizer: Knows how to pad.
        pad_to_multiple_of: Round the length up (8 helps a GPU's matrix units).
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Build the batch.

        Raises:
            ValueError: The features are of different tasks, which a head can't answer together.
        """
        tasks = {feature["task"] for feature in features}
        if len(tasks) != 1:
            raise ValueError(f"a batch holds one task, this one holds {sorted(tasks)}: use a TaskBatchSampler")
        # Labels first: the Trainer takes the first tensor's first axis for the batch size.
        batch: dict[str, Any] = {}
        if features[0].get("labels") is not None:
            batch["labels"] = torch.tensor([feature["labels"] for feature in features])
        if "teacher" in features[0]:
            for key in ("teacher", "teacher_weight"):
                batch[key] = torch.from_numpy(np.stack([feature[key] for feature in features]))
        if "embedding" in features[0]:
            return (
                batch
                | {"embedding": torch.stack([feature["embedding"] for feature in features])}
                | {"task": tasks.pop()}
            )
        segments = range(len(features[0]["input_ids"]))
        keys = [key for key in ("input_ids", "token_type_ids") if features[0].get(key) is not None]
        padded = self.tokenizer.pad(
            {key: [feature[key][segment] for segment in segments for feature in features] for key in keys},
            padding=True,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_attention_mask=True,
            return_tensors="pt",
            verbose=False,
        )
        return batch | dict(padded) | {"task": tasks.pop()}
