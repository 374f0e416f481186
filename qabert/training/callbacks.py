"""Callbacks of the training loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qabert.data.sampling import TaskBatchSampler


class StepSeeds(TrainerCallback):
    """Make an epoch's order a function of its number, and a step's dropout one of the step and the process.

    So nothing random has to be saved: a resumed run draws what the uninterrupted one drew, whatever came between.  The
    Trainer's own `set_epoch` doesn't reach a sampler inside the loader that skips batches after a resume.
    """

    def __init__(self, sampler: TaskBatchSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the epoch's first batch."""
        self.sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the step's first forward."""
        seeds = np.random.SeedSequence([args.seed, state.global_step, args.process_index])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1)))


class RunMoments(TrainerCallback):
    """When a checkpoint is written, so that whoever goes on from it does what the uninterrupted run did.

    At the last step of an epoch, or of the run, the evaluation of the epoch's end is still to come: whoever goes on
    from a checkpoint that was written before it would never do it.  So there a checkpoint waits for it.  Inside an
    epoch a run that was asked to stop writes a checkpoint and leaves the epoch without the evaluation of its end.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.due = self.cut = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the Trainer has set its sums to zero."""
        self.due = self.cut = False
        self.trainer.restore_progress()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Before the step's log, evaluation and checkpoint."""
        asked = self.trainer.stopping or (args.world_size == 1 and self.trainer.stop.requested is not None)
        self.trainer.stopping = asked
        last = state.global_step % self.trainer.steps_per_epoch == 0 or control.should_training_stop
        self.due = last and (control.should_save or asked)
        if self.due and args.save_strategy != "best":
            control.should_save = False
        elif asked:
            control.should_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the epoch's log, evaluation and checkpoint."""
        if self.cut or self.trainer.finished:
            control.should_log = control.should_evaluate = control.should_save = False
            control.should_training_stop = True
        elif self.due:
            control.should_save = True
        self.due = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a checkpoint; only here, so that it doesn't look like that of a finished run."""
        if self.trainer.stopping:
            self.cut = state.global_step % self.trainer.steps_per_epoch != 0
            control.should_training_stop = True


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
