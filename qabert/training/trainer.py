"""The Trainer, told what a task is: which rows meet in a step, how a loss is averaged, how a model is scored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset
from transformers import TrainingArguments
from transformers.trainer_utils import speed_metrics

from qabert.data.collator import DataCollator
from qabert.data.orders import BothOrders
from qabert.data.sampling import TaskBatchSampler, TaskRows, column, longest_first, strata
from qabert.errors import RunError, out_of_memory
from qabert.evaluation.metrics import multitask_score
from qabert.evaluation.scores import score_answers
from qabert.modeling.losses import LOSSES
from qabert.tasks import Task
from qabert.training.frozen import FrozenFeatures
from qabert.training.objectives import Objective
from qabert.training.optimizer import learning_rates, regroup
from qabert.training.step_trainer import StepTrainer


class QABertTrainer(StepTrainer):
    """A `Trainer` for a dictionary of tasks.

    Overrides, each with its reason:
        `get_train_dataloader`, `get_batch_samples` (of `StepTrainer`): batches of one task, drawn by weight, the same
            task on every process; the rows of a whole step.
        `compute_loss`: a step's loss is the mean over its rows, however it is cut up.
        `create_optimizer`: learning rates of the heads' and of each layer's own.
        `evaluate`: every task once, one score to choose the best model by, one log line.
        `log`, `num_examples`: losses by task; throughput of what was drawn, not of what there is.

    Args:
        model: A `QABertModel`.
        args: The Trainer's arguments.
        tasks: Declarations by name.
        train_dataset: Features by task, as `PromptEncoder` makes them, in the order of training.
        eval_dataset: Likewise, for evaluation.
        processing_class: The tokenizer.
        order, weighted_sampling, examples_per_epoch: See `TaskBatchSampler`.
        head_learning_rate, layer_decay: See `learning_rates`.
        objective: What a step minimises.
        row_ids: Ids of the training rows by task, for messages.

    Raises:
        InputError: The launcher started another number of processes than the Trainer sees.
    """

    row_key = "labels"

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        tasks: Mapping[str, Task],
        train_dataset: Mapping[str, Any] | None = None,
        eval_dataset: Mapping[str, Any] | None = None,
        processing_class: Any,
        order: str = "interleaved",
        weighted_sampling: bool = True,
        examples_per_epoch: Mapping[str, int] | None = None,
        head_learning_rate: float | None = None,
        layer_decay: float = 1.0,
        objective: Objective | None = None,
        row_ids: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.tasks = dict(tasks)
        self.head_learning_rate, self.layer_decay = head_learning_rate, layer_decay
        self.objective: Objective = objective or Objective()
        self.row_ids = dict(row_ids or {})
        self.logits: dict[str, np.ndarray] = {}
        self._task_losses: dict[str, torch.Tensor] = {}
        train = dict(train_dataset or {})
        for name in {*train, *(eval_dataset or {})}:
            if name not in self.tasks:
                raise KeyError(f"a dataset is named '{name}', but no such task is declared: {', '.join(self.tasks)}")
        forms = {name: getattr(features, "both", None) for name, features in train.items()}  # of BothOrders
        parts = [forms[name] or features for name, features in train.items()]
        super().__init__(
            model,
            args,
            data_collator=DataCollator(processing_class, pad_to_multiple_of=8 if args.device.type == "cuda" else None),
            train_dataset=ConcatDataset(parts) if parts else None,
            eval_dataset=dict(eval_dataset) if eval_dataset else None,
            processing_class=processing_class,
            **kwargs,
        )
        if train:
            rows = {
                name: TaskRows(
                    lengths=column(features["length"]),
                    strata=strata(features["labels"], self.tasks[name].range),
                    examples=(examples_per_epoch or {}).get(name),
                    variants=1 + (forms[name] is not None),
                )
                for name, features in train.items()
            }
            self.sample_from(rows, order, weighted_sampling)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean loss over a step's rows: this batch's part of it, times the processes that DDP will average over."""
        loss, outputs = self.objective(model, inputs, self.tasks[inputs["task"]])
        if num_items_in_batch is not None:
            rows = len(inputs["labels"])
            past = self._task_losses.get(inputs["task"], torch.zeros(2, device=loss.device))
            self._task_losses[inputs["task"]] = past + torch.stack([loss.detach() * rows, torch.full_like(loss, rows)])
            loss = loss * rows * self.args.world_size / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `StepTrainer.train`; of `FrozenFeatures` the rows that the run draws are embedded first, once each."""
        if self.sampler is not None:
            self._embed_drawn_rows(self.sampler)
        return super().train(*args, **kwargs)

    def _fill(self, frozen: FrozenFeatures) -> None:
        quiet = bool(self.args.disable_tqdm) or not self.is_world_process_zero()
        size = self.args.per_device_eval_batch_size
        try:
            frozen.fill(self._embed, size, quiet)
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise RunError(
                f"out of memory while rows of task '{frozen.source.task}' were embedded, {size} at a time; lower "
                "per_device_eval_batch_size or max_length"
            ) from error

    def _embed_drawn_rows(self, sampler: TaskBatchSampler) -> None:
        """Embed what this process will draw, in all epochs together: batches of like length are fast."""
        whole = self.train_dataset.datasets  # type: ignore[union-attr]
        parts = [part for task in whole for part in getattr(task, "datasets", (task,))]  # a pair's two orders
        if not any(isinstance(part, FrozenFeatures) for part in parts):
            return
        epochs = sampler.epochs
        if self.args.max_steps > 0:
            epochs = -(-self.args.max_steps // self.steps_per_epoch)
        drawn = np.zeros(sum(task.held for task in sampler.tasks.values()), dtype=bool)
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            for batch in sampler:
                drawn[batch] = True
        first = 0
        for part in parts:
            self._fill(part.select(np.flatnonzero(drawn[first : first + len(part)])))
            first += len(part)

    @torch.no_grad()
    def _embed(self, features: list[dict[str, Any]]) -> torch.Tensor:
        """Embeddings of a batch of features, as a frozen encoder makes them in training and in evaluation."""
        model: Any = self.accelerator.unwrap_model(self.model)
        inputs = self._prepare_inputs(self.data_collator(features))
        model.eval().to(self.args.device)
        segments = model.config.segments(model.config.task(inputs["task"]))
        keys = ("input_ids", "attention_mask", "token_type_ids")
        with self.accelerator.autocast():
            return model.embed(**{key: inputs[key] for key in keys if key in inputs}, segments=segments)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer, its parameter groups split where weights learn at different rates."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and (self.head_learning_rate is not None or self.layer_decay != 1):
            plain = self.accelerator.unwrap_model(self.model)
            rate = self.args.learning_rate
            regroup(optimizer, plain, learning_rates(plain, rate, self.head_learning_rate, self.layer_decay))
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each task's mean training loss since the last log to a training log."""
        if "loss" in logs:
            for name in [name for name in self.tasks if name in self._task_losses]:
                total, rows = self.accelerator.reduce(self._task_losses.pop(name), reduction="sum").tolist()
                logs[f"{name}/loss"] = total / rows
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score every task.

        Args:
            eval_dataset: Features by task; the trainer's own if None.
            ignore_keys: Further model outputs not to gather.
            metric_key_prefix: Prefix of the metrics' names.

        Returns:
            `eval_<task>/<metric>` and `eval_<task>/loss` by task, `eval_loss` (their mean) and `eval_score` (mean of
            every task's first metric), each over exactly the given rows.  `self.logits` keeps the logits, in the rows'
            order.
        """
        datasets = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(datasets, Mapping) or not datasets:
            raise ValueError("evaluate() takes a dictionary of features by task")
        start = time.time()
        metrics: dict[str, float] = {}
        losses, firsts, rows, steps = [], {}, 0, 0
        for name, features in datasets.items():
            logits, labels, batches = self._predict_task(features, ignore_keys or [])
            self.logits[name] = logits
            task = self.tasks[name]
            # Not the loop's own loss: with several processes it counts the rows that fill up their last batches.
            loss = LOSSES[task.problem](torch.from_numpy(logits), torch.from_numpy(labels), task.range).item()
            scores = score_answers(task, self.answers(name), labels)
            losses.append(loss)
            firsts[name] = scores[task.score]
            rows, steps = rows + len(labels), steps + batches
            metrics |= {f"{metric_key_prefix}_{name}/{key}": value for key, value in {**scores, "loss": loss}.items()}
        metrics[f"{metric_key_prefix}_loss"] = float(np.mean(losses))
        metrics[f"{metric_key_prefix}_score"] = multitask_score(firsts)
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=rows, num_steps=steps)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def sums(self) -> dict[str, Any]:
        """The tasks' losses since the last log."""
        return dict(self._task_losses)

    def restore_sums(self, sums: dict[str, Any]) -> None:
        """Go on adding the tasks' losses up."""
        self._task_losses = {name: value.to(self.args.device) for name, value in sums.items()}

    def row_names(self, task: str, rows: Sequence[int]) -> list[str]:
        """Ids of training rows, where they are known."""
        ids = self.row_ids.get(task)
        return super().row_names(task, rows) if ids is None else [str(ids[row]) for row in rows]

    def answers(self, task: str) -> np.ndarray:
        """Probabilities or values (see `modeling.losses.activate`) of the rows that `evaluate` saw last."""
        return self.accelerator.unwrap_model(self.model).answers(torch.from_numpy(self.logits[task]), task).numpy()

    def _predict_task(self, features: Any, ignore_keys: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
        """Logits `(rows, outputs)` and labels `(rows,)` in the features' order, number of batches."""
        if isinstance(features, BothOrders):
            parts = [self._predict_task(part, ignore_keys) for part in (features.features, features.exchanged)]
            return (parts[0][0] + parts[1][0]) / 2, parts[0][1], parts[0][2] + parts[1][2]
        order = longest_first(features["length"])
        if isinstance(features, FrozenFeatures):
            self._fill(features)
        known = len(self.accelerator._dataloaders)
        loader = self.get_eval_dataloader(features.select(order))
        del self.accelerator._dataloaders[known:]  # Accelerate would keep it, with its rows, until the run ends
        try:
            output = self.evaluation_loop(
                loader, description="Evaluation", prediction_loss_only=False, ignore_keys=[*ignore_keys, "embedding"]
            )
        except Exception as error:
            if not out_of_memory(error):
                raise
            longest = column(features["length"]).max()
            raise RunError(
                f"out of memory in an evaluation of {len(features):,} rows of up to {longest} tokens; "
                "lower per_device_eval_batch_size or max_length"
            ) from error
        # Ends this task's progress bar; `on_evaluate` comes once, after all tasks.
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, output.metrics)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        logits = np.asarray(output.predictions, dtype=np.float32)[back]
        if not np.isfinite(logits).all():
            rows = int((~np.isfinite(logits)).any(axis=1).sum())
            raise RunError(f"{rows} of {len(logits)} dev rows are answered with no number: training has diverged")
        return logits, np.asarray(output.label_ids)[back], len(loader)
