"""What the trainers share: rows that a `TaskBatchSampler` draws step by step, whatever the number of processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from qabert.data.sampling import TaskBatchSampler, TaskRows
from qabert.errors import InputError
from qabert.training.callbacks import SamplerEpoch, ScoreLines


class StepTrainer(Trainer):
    """A `Trainer` whose sampler draws a whole optimizer step, which is then cut into processes and accumulated batches.

    A subclass gives its rows to `sample_from`, and its `compute_loss` divides by the rows of the whole step.

    Args:
        model: As in `Trainer`.
        args: As in `Trainer`.
        **kwargs: As in `Trainer`.

    Raises:
        InputError: The launcher started another number of processes than the Trainer sees.
    """

    #: The key of a batch that has one entry for each of its rows.
    row_key: ClassVar[str]
    # `compute_loss` divides by the rows of the whole step, so the Trainer must not divide by accumulation steps again.
    loss_is_scaled_for_ga = True

    def __init__(self, model: Any, args: TrainingArguments, **kwargs: Any) -> None:
        check_world(args)
        # DataParallel would cut a batch in the wrong places; several GPUs need several processes.
        if args.n_gpu > 1:
            args._n_gpu = 1
        self.sampler: TaskBatchSampler | None = None
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
        self.add_callback(SamplerEpoch(self.sampler))

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
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = torch.tensor(sum(len(batch[self.row_key]) for batch in batches), device=device)
        return batches, self.accelerator.gather(rows).sum() if self.args.world_size > 1 else rows


def check_world(args: TrainingArguments) -> None:
    """Stop where the launcher's number of processes isn't the Trainer's.

    Otherwise each process would believe that it is alone, and all would write to one folder.

    Raises:
        InputError: They differ.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != args.world_size:
        raise InputError(
            f"the launcher started {launched} processes but the Trainer sees {args.world_size}: on CPUs add "
            "--use_cpu true --ddp_backend gloo; on GPUs check that every process sees one"
        )
