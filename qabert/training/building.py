"""What a run trains: features of rows, a model with a head for each task, and their trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments, set_seed

from qabert.data.cache import encode
from qabert.data.orders import BothOrders
from qabert.data.prompts import PromptEncoder
from qabert.data.sampling import column
from qabert.data.sources import TaskData, load_data
from qabert.errors import InputError, loading_problem
from qabert.inference import try_out
from qabert.modeling import QABertModel
from qabert.tasks import Task
from qabert.training.adding_tasks import TrainedModel
from qabert.training.arguments import RunArguments
from qabert.training.lora import add_adapters
from qabert.training.objectives import Objective
from qabert.training.stopping import StopSignals
from qabert.training.teachers import Taught
from qabert.training.trainer import QABertTrainer


@dataclass
class RunData:
    """What a run learns from and is scored on.

    Attributes:
        tasks: By name.
        tokenizer: The encoder's.
        rows: Of each task.
        features: Theirs, by task and split.
        row_ids: Ids of each task's training rows, in their order.
        taught: Training features of tasks with teachers, which stand in the place of those in `features`.
        base: The trained model that the run starts from, if it does.
    """

    tasks: Mapping[str, Task]
    tokenizer: Any
    rows: Mapping[str, TaskData]
    features: Mapping[str, Mapping[str, Any]]
    row_ids: Mapping[str, Sequence[str]]
    taught: Mapping[str, Taught] = field(default_factory=dict)
    base: TrainedModel | None = None

    @property
    def dev(self) -> dict[str, Any]:
        """Features of each task's dev rows."""
        return {name: self.features[name]["dev"] for name in self.tasks}

    def labels(self, split: str) -> dict[str, np.ndarray]:
        """Labels of each task's rows of a split, in their order."""
        return {name: column(self.features[name][split]["labels"]) for name in self.tasks}


def load_features(args: RunArguments, tasks: Mapping[str, Task], tokenizer: Any) -> tuple[dict[str, TaskData], Any]:
    """Rows by task, and their features by task and split.

    Raises:
        InputError: Rows that can't be loaded, or a question that leaves no room for sentences in `max_length`.
    """
    encoders = {name: prompt_encoders(args, task, tokenizer) for name, task in tasks.items()}
    rows = load_data(tasks, args.data, strict=args.strict, cache=args.cache)

    def made(name: str, split: str) -> Any:
        used, key = rows[name].splits[split], rows[name].keys.get(split)
        return encode_rows(encoders[name], used, key, f"{name} {split}")

    return rows, {name: {split: made(name, split) for split in rows[name].splits} for name in tasks}


def prompt_encoders(args: RunArguments, task: Task, tokenizer: Any) -> list[PromptEncoder]:
    """What encodes a task's rows: one for rows as they are and, where both orders count, one for rows exchanged.

    Raises:
        InputError: The task's question leaves no room for sentences in `max_length`.
    """
    orders = (False, True) if args.both_orders and task.symmetric else (False,)
    return [PromptEncoder(args.format, tokenizer, task, args.max_length, order) for order in orders]


def encode_rows(encoders: Sequence[PromptEncoder], rows: Any, key: str | None, title: str) -> Any:
    """Features of rows, as `BothOrders` if there are two encoders; for the arguments see `qabert.data.cache.encode`."""
    found = [encode(rows, encoder, key, title) for encoder in encoders]
    return BothOrders(*found) if len(found) > 1 else found[0]


def encode_more(args: RunArguments, task: Task, rows: Any, tokenizer: Any) -> Any:
    """Features of further rows of a task, in memory."""
    return encode_rows(prompt_encoders(args, task, tokenizer), rows, None, f"{task.name} further rows")


def build_model(args: RunArguments, data: RunData, encoder: str) -> QABertModel:
    """A new model with a pretrained encoder, or what `data.base` is with the tasks it lacks.

    Raises:
        InputError: The encoder can't be loaded, or a setting doesn't fit it.
    """
    trained = [name for name in data.tasks if args.trains(name)]
    corrected = {name: data.tasks[name] for name in trained} if args.weighted_sampling and args.prior_correction else {}
    priors = label_priors(corrected, data.features)
    try:
        if data.base is not None:
            model = data.base.extended(args, trained, priors)
        else:
            model = QABertModel.from_encoder(
                encoder,
                tasks=[task.to_dict() for task in data.tasks.values()],
                input_format=args.format,
                max_length=args.max_length,
                head_blocks=args.head_blocks,
                head_width=args.head_width,
                head_dropout=args.head_dropout,
                freeze_encoder=args.freeze_encoder,
                pooling=args.pooling,
                both_orders=args.both_orders,
                priors=priors or None,
                dropout=args.dropout,
                attn_implementation=args.attn_implementation,
            )
        if args.lora_rank is not None:
            add_adapters(model, args.lora_rank, args.lora_alpha, args.lora_dropout, args.lora_targets)
        try_out(model, data.tokenizer)
    except InputError:
        raise
    except Exception as error:
        if (problem := loading_problem(error)) is None:
            raise
        raise InputError(f"encoder '{encoder}' can't be loaded: {problem}") from None
    return model


def build_trainer(
    args: RunArguments,
    training_args: TrainingArguments,
    data: RunData,
    encoder: str,
    stop: StopSignals,
    callbacks: Sequence[TrainerCallback] = (),
) -> QABertTrainer:
    """A model (see `build_model`) and its trainer."""
    set_seed(training_args.seed)
    model = build_model(args, data, encoder)
    train = {name: data.features[name]["train"] for name in data.tasks} | dict(data.taught)
    patience = args.early_stopping_patience
    return QABertTrainer(
        model,
        training_args,
        tasks=data.tasks,
        train_dataset={name: rows for name, rows in train.items() if args.trains(name)},
        eval_dataset={
            name: subset(rows, args.eval_examples.get(name), training_args.seed) for name, rows in data.dev.items()
        },
        processing_class=data.tokenizer,
        order=args.order,
        weighted_sampling=args.weighted_sampling,
        examples_per_epoch=args.examples_per_epoch,
        head_learning_rate=args.head_learning_rate,
        layer_decay=args.layer_decay,
        objective=Objective(
            label_smoothing=training_args.label_smoothing_factor,
            ordinal_smoothing=args.ordinal_smoothing,
            loss_weights=args.loss_weights,
        ),
        row_ids=data.row_ids,
        stop=stop,
        callbacks=[*([EarlyStoppingCallback(patience)] if patience else []), *callbacks],
    )


def label_priors(tasks: Mapping[str, Task], features: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Share of each label in the training rows of every task with labels, as if each had been seen once more."""
    return {
        name: ((counts + 1) / (counts + 1).sum()).tolist()
        for name, task in tasks.items()
        if task.labels
        for counts in [np.bincount(column(features[name]["train"]["labels"]), minlength=len(task.labels))]
    }


def subset(features: Any, rows: int | None, seed: int) -> Any:
    """A fixed random choice of dev rows, the same for every model that is trained with this seed."""
    if rows is None or rows >= len(features):
        return features
    return features.select(np.sort(np.random.default_rng(seed).choice(len(features), rows, replace=False)))
