"""Train on the same rows with other packages, as their documentation does, then score the dev rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qabert.benchmark.meters import Meter, autocast, device
from qabert.benchmark.rows import REGRESSOR, SEED
from qabert.benchmark.training import Pairs, Run, Spec, train_limit, train_qabert, trainer_keys


def train_transformers(spec: Spec, pairs: Pairs, run: Run) -> None:
    """`Trainer` as in the examples, with the padding that the contender's name says."""
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(SEED)
    kind = spec["contender"].removeprefix("trainer-")
    path = Path(spec["work"]) / REGRESSOR
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=1, dtype=torch.float32, attn_implementation=spec["attn_implementation"]
    )
    run.meter = Meter(model.base_model)

    def tokenize(rows: dict[str, list[Any]]) -> dict[str, Any]:
        padding = "max_length" if kind == "128" else False
        tokens = tokenizer(
            rows["first"], rows["second"], truncation=True, max_length=spec["max_length"], padding=padding
        )
        return {**tokens, "length": list(map(len, tokens["input_ids"]))} if kind == "grouped" else dict(tokens)

    data = {}
    for split in ("train", "dev"):
        columns = {key: [row[key] for row in pairs[split]] for key in ("first", "second")}
        made = Dataset.from_dict(columns | {"labels": [row["scaled"] for row in pairs[split]]})
        data[split] = made.map(tokenize, batched=True, remove_columns=["first", "second"])
    more = {"train_sampling_strategy": "group_by_length"} if kind == "grouped" else {}
    trainer = Trainer(
        model,
        TrainingArguments(**trainer_keys(spec) | more),
        train_dataset=data["train"],
        eval_dataset=data["dev"],
        processing_class=tokenizer,
        data_collator=None if kind == "128" else DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda seen: {"mse": float(np.mean((np.ravel(seen.predictions) - seen.label_ids) ** 2))},
        callbacks=[run.callback()],
    )
    run.trained(train_loss=trainer.train().training_loss)
    run.evaluate(trainer.evaluate)


def train_sentence_transformers(spec: Spec, pairs: Pairs, run: Run) -> None:
    """`CrossEncoderTrainer` on a dictionary of data sets; `CrossEncoder.predict` on the dev rows."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    model = cross_encoder(spec, REGRESSOR)
    run.meter = Meter(model[0].model.base_model)
    tasks = list(dict.fromkeys(row["task"] for row in pairs["train"]))
    data = {
        task: Dataset.from_list(
            [
                {"first": r["first"], "second": r["second"], "label": r["scaled"]}
                for r in pairs["train"]
                if r["task"] == task
            ]
        )
        for task in tasks
    }
    losses: dict[str, Any] = {task: BinaryCrossEntropyLoss(model) for task in tasks}
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**trainer_keys(spec)),
        train_dataset=data,
        loss=losses,
        callbacks=[run.callback()],
    )
    run.trained(train_loss=trainer.train().training_loss)
    dev = [(row["first"], row["second"]) for row in pairs["dev"]]
    with autocast(spec["bf16"]):
        run.evaluate(lambda: model.predict(dev, batch_size=spec["batch_size"], show_progress_bar=False))


def cross_encoder(spec: Spec, name: str) -> Any:
    """A `CrossEncoder` of one of the prepared models."""
    from sentence_transformers.cross_encoder import CrossEncoder

    settings = {"dtype": torch.float32} | (
        {"attn_implementation": spec["attn_implementation"]} if spec["attn_implementation"] else {}
    )
    return CrossEncoder(
        str(Path(spec["work"]) / name), max_length=spec["max_length"], model_kwargs=settings, device=device()
    )


def train_tasknet(spec: Spec, pairs: Pairs, run: Run) -> None:
    """`tasknet.Model_Trainer` on a regression for each task."""
    import evaluate
    from datasets import Dataset, DatasetDict

    load, evaluate.load = evaluate.load, lambda *args, **kwargs: None  # fetched when tasknet is imported
    import tasknet

    evaluate.load = load
    tasks = []
    for name in dict.fromkeys(row["task"] for row in pairs["train"]):
        own = {
            split: Dataset.from_list(
                [
                    {"s1": r["first"], "s2": r["second"], "labels": r["scaled"]}
                    for r in pairs[source]
                    if r["task"] == name
                ]
            )
            for split, source in (("train", "train"), ("validation", "dev"), ("test", "dev"))
        }
        tasks.append(tasknet.Classification(DatasetDict(own), s1="s1", s2="s2", y="labels", name=name))
    settings = {"model_name": str(Path(spec["work"]) / REGRESSOR), "max_length": spec["max_length"]}
    attention = {"attn_implementation": spec["attn_implementation"]} if spec["attn_implementation"] else {}
    model, trainer = tasknet.Model_Trainer(tasks, settings | attention | trainer_keys(spec))
    run.meter = Meter(*(own.base_model for own in model.task_models_list))
    trainer.add_callback(run.callback())
    run.trained(train_loss=trainer.train().training_loss)


TRAINING: dict[str, Callable[[Spec, Pairs, Run], None]] = {
    "limit": train_limit,
    "qabert": train_qabert,
    "trainer-128": train_transformers,
    "trainer-dynamic": train_transformers,
    "trainer-grouped": train_transformers,
    "sentence-transformers": train_sentence_transformers,
    "tasknet": train_tasknet,
}
