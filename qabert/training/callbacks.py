"""Callbacks of the training loop."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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


class ScoreLines(ProgressCallback):
    """Progress bars, and one readable line per log instead of a dictionary.  With `disable_tqdm`, the lines alone."""

    def __init__(self, disable_tqdm: bool = False) -> None:
        super().__init__()
        self.disable_tqdm = disable_tqdm

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):  # type: ignore[no-untyped-def]
        """Open the bar."""
        if not self.disable_tqdm:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Move the evaluation's bar."""
        if not self.disable_tqdm:
            super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write the line."""
        if state.is_world_process_zero and logs:
            line = format_log(logs, state.global_step, state.epoch)
            self.training_bar.write(line) if self.training_bar is not None else print(line, flush=True)


def format_log(logs: dict[str, Any], step: int, epoch: float | None) -> str:
    """A log as one line: the step, then the numbers that a person looks for."""
    hidden = ("runtime", "samples_per_second", "steps_per_second", "total_flos", "epoch", "/loss")
    prefix = next((key[: -len("_score")] for key in logs if key.endswith("_score")), "")
    numbers = []
    for key, value in logs.items():
        if isinstance(value, float | int) and (not prefix or not key.endswith(hidden)) and key != "epoch":
            name = key.removeprefix(f"{prefix}_").replace("/", " ")
            numbers.append(f"{name} {value:.1e}" if name == "learning_rate" else f"{name} {value:.4g}")
    return f"{prefix or 'train'} · step {step} · epoch {epoch or 0:.2f} · " + " · ".join(numbers)
