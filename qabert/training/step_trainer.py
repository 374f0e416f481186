"""What the trainers share: whole steps, whatever the number of processes, and a plain word where a run goes wrong."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from qabert.checkpoints import newest_whole
from qabert.data.sampling import TaskBatchSampler, TaskRows
from qabert.errors import InputError, RunError, Stopped, out_of_memory
from qabert.processes import launched_processes
from qabert.training.callbacks import RunMoments, ScoreLines, StepSeeds
from qabert.training.checkpointing import CheckpointedTrainer
from qabert.training.stopping import StopSignals


class StepTrainer(CheckpointedTrainer):
    """A `Trainer` whose sampler draws a whole optimizer step, which is then cut into processes and accumulated batches.

    A subclass gives its rows to `sample_from`, and its `compute_loss` divides by the rows of the whole step.

    Overrides of the Trainer's own, each with its reason:
        `get_train_dataloader`, `get_batch_samples`, `num_examples`: a step's rows are this sampler's.
        `training_step`, `_get_grad_norm`: a loss or gradient that is no number, or no memory, stops the run and says
            where.
        `train`: a signal to stop becomes an error that says what was saved.

    Args:
        model: As in `Trainer`.
        args: As in `Trainer`.
        stop: Signals to look at after every step; see `stop_signals`.
        **kwargs: As in `Trainer`.

    Raises:
        InputError: The launcher started another number of processes than the Trainer sees.
    """

    #: The key of a batch that has one entry for each of its rows.
    row_key: ClassVar[str]
    # `compute_loss` divides by the rows of the whole step, so the Trainer must not divide by accumulation steps again.
    loss_is_scaled_for_ga = True

    def __init__(self, model: Any, args: TrainingArguments, *, stop: StopSignals | None = None, **kwargs: Any) -> None:
        check_world(args)
        # DataParallel would cut a batch in the wrong places; several GPUs need several processes.
        if args.n_gpu > 1:
            args._n_gpu = 1
        self.sampler: TaskBatchSampler | None = None
        self.stop = stop or StopSignals()
        self.stopping = False  # whether any process was asked to stop, which all of them know
        super().__init__(model=model, args=args, **kwargs)
        for printer in (ProgressCallback, PrinterCallback):
            self.remove_callback(printer)
        self.add_callback(ScoreLines(bool(args.disable_tqdm)))

    def sample_from(self, tasks: Mapping[str, TaskRows], order: str, weighted: bool) -> None:
        """Draw from these rows, in the order of `train_dataset`; see `TaskBatchSampler`."""
        self.sampler = TaskBatchSampler(
            tasks=tasks,
            batch_size=self.args.per_device_train_batch_size,
            order=order,
            weighted=weighted,
            seed=self.args.seed,
            epochs=int(np.ceil(self.args.num_train_epochs)),
            world_size=self.args.world_size,
            rank=self.args.process_index,
            accumulation=self.args.gradient_accumulation_steps,
        )
        self.add_callback(StepSeeds(self.sampler))
        self.add_callback(RunMoments(self))

    @property
    def output(self) -> Path:
        """The folder of the run's checkpoints."""
        return Path(str(self.args.output_dir))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.sampler) // self.args.gradient_accumulation_steps if self.sampler is not None else 0

    @property
    def examples_trained(self) -> int:
        """Rows drawn so far, one that was drawn twice counted twice; inside an epoch as many as its steps' share."""
        return round((self.state.epoch or 0) * self.sampler.examples_per_epoch) if self.sampler is not None else 0

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process.  The sampler knows the processes, so Accelerate must not share them out again."""
        if self.sampler is None:
            raise ValueError("the trainer was given no train_dataset")
        return DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
        )

    def num_examples(self, dataloader: DataLoader) -> int:
        """Rows that one pass draws."""
        sampler = getattr(dataloader, "batch_sampler", None)
        return sampler.examples_per_epoch if isinstance(sampler, TaskBatchSampler) else super().num_examples(dataloader)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """A step's batches on this process, and the rows that the step has on all processes."""
        if self.finished:
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        asked = self.stop.requested is not None
        rows = torch.tensor([sum(len(batch[self.row_key]) for batch in batches), int(asked)], device=device)
        if self.args.world_size > 1:  # all stop after the same step, whichever of them was asked
            rows = self.accelerator.gather(rows[None]).sum(0)
            asked = bool(rows[1])
        self.stopping = asked
        return batches, rows[0]

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of one batch.

        Raises:
            RunError: The loss is no number, or memory doesn't suffice.
        """
        size = " × ".join(map(str, inputs["input_ids"].shape)) + " tokens" if "input_ids" in inputs else "embeddings"
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise RunError(
                f"out of memory at step {self.state.global_step + 1}, {self._step_text()}: a batch of {size}; "
                "lower per_device_train_batch_size (and raise gradient_accumulation_steps: the "
                "result stays the same), or max_length; --activation_checkpointing true takes less memory and more time"
            ) from error
        if not torch.isfinite(loss):
            raise RunError(self._diverged(f"the loss is {loss.item()}"))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # A loss scaler (fp16) meets infinite gradients as a matter of course, and skips their step.
        if norm is not None and self.accelerator.scaler is None and not np.isfinite(float(norm)):
            raise RunError(self._diverged(f"the gradients' norm is {float(norm)}"))
        return norm

    def _diverged(self, what: str) -> str:
        kept = newest_whole(self.output, tell=lambda _: None)
        return (
            f"{what} at step {self.state.global_step + 1}, {self._step_text()}; training stops before the weights "
            f"change. {f'The last checkpoint is {kept}.' if kept else 'There is no checkpoint yet.'} Try a lower "
            "learning_rate, a longer warm-up (warmup_steps), float32 instead of half precision; or look at those rows"
        )

    def _step_text(self) -> str:
        """The current step's task and the rows that this process has of it, by their ids."""
        if self.sampler is None:
            return "outside of training"
        first = self.state.global_step % self.steps_per_epoch * self.args.gradient_accumulation_steps
        batches = itertools.islice(iter(self.sampler), first, first + self.args.gradient_accumulation_steps)
        rows = [row for batch in batches for row in batch]
        for name, task in self.sampler.tasks.items():
            if rows and rows[0] < task.held:
                ids = self.row_names(name, [row % len(task.lengths) for row in rows])
                shown = ", ".join(ids[:32]) + (f" and {len(ids) - 32} more" if len(ids) > 32 else "")
                return f"task '{name}', rows {shown}"
            rows = [row - task.held for row in rows]
        return "no rows"

    def row_names(self, task: str, rows: Sequence[int]) -> list[str]:
        """What to call rows of a task in messages."""
        return [f"#{row + 1}" for row in rows]

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        """Train; a checkpoint is gone on from as if there had been no interruption.

        Raises:
            RunError: Something can't be written, a number is none, memory doesn't suffice.
            Stopped: A signal asked to stop; there is a checkpoint of the step after which it did.
        """
        self.resumed = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        with self.stop.waiting():
            result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if self.stopping or self.stop.requested is not None:
            signum = self.stop.requested or signal.SIGTERM  # another process was asked
            kept = newest_whole(self.output, tell=lambda _: None)
            raise Stopped(
                signum,
                f"stopped by {signal.Signals(signum).name} after step {self.state.global_step}; {kept or 'nothing'} is "
                "saved; the same command with --resume auto goes on from there",
            )
        return result


def check_world(args: TrainingArguments) -> None:
    """Stop where the launcher asked for something else than the Trainer sees.

    With other numbers of processes each would believe that it is alone, and all would write to one folder.

    Raises:
        InputError: They differ, or the launcher asks for FSDP on CPUs.
    """
    launched = launched_processes()
    if launched != args.world_size:
        raise InputError(
            f"the launcher started {launched} processes but the Trainer sees {args.world_size}: on CPUs add "
            "--use_cpu true --ddp_backend gloo; on GPUs check that every process sees one"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and args.device.type == "cpu":
        raise InputError("the launcher asks for FSDP, which needs GPUs (on CPUs Accelerate ignores it): use torchrun")
