"""Callbacks of the training loop."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qabert.data.sampling import TaskBatchSampler


class SamplerEpoch(TrainerCallback):
    """Tell the sampler which epoch begins.

    The Trainer's own `set_epoch` doesn't reach a sampler inside the loader that skips batches after a resume.
    """

    def __init__(self, sampler: TaskBatchSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the epoch's first batch."""
        self.sampler.set_epoch(int(state.epoch or 0))
