"""A training run from arguments to scores: check → rows → features → model → trainer → train → save → score.

Everything that can be wrong with the input is checked in that order, cheapest first, before a model is loaded.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from qabert.answers import write_predictions
from qabert.checkpoints import clear_parts
from qabert.data.cache import encode
from qabert.data.demo import DEMO_NOTE
from qabert.data.prompts import PromptEncoder
from qabert.data.sampling import column
from qabert.data.sources import TaskData, load_data
from qabert.data.summary import summarise, summary_text
from qabert.errors import InputError, RunError, loading_problem
from qabert.evaluation.metrics import majority_baseline, multitask_score
from qabert.evaluation.scores import result_table
from qabert.files import DISK_ERRORS, whole_file
from qabert.inference import try_out
from qabert.modeling import QABertModel
from qabert.tasks import Task
from qabert.training.arguments import RunArguments
from qabert.training.encoders import find_encoder, load_tokenizer
from qabert.training.frozen import FrozenFeatures
from qabert.training.lora import ADAPTER, add_adapters, finish, require_peft, weight_counts
from qabert.training.output import (
    METRICS,
    alone,
    check_room,
    described,
    finished_run,
    goes_on_from,
    holds_files,
    prepare_output,
    resumable,
    shared,
    write_marker,
)
from qabert.training.step_trainer import check_world
from qabert.training.stopping import StopSignals, stop_signals
from qabert.training.trainer import QABertTrainer
from qabert.training.triplets import CHECKPOINTS, load_stage, stage_metrics, start_encoder, train_triplets


def train(args: RunArguments) -> dict[str, Any]:
    """Train as told, and write model, scores and predictions to `args.output_dir`.

    Returns:
        What `metrics.json` holds: `score`, the scores by task of the trained model, of the majority class and (with
        `score_untrained`) of the untrained model, what the triplet stage measured, the data summary, warnings, the
        history of logged losses and scores, times, machine and versions.

    Raises:
        InputError: Anything that the user gave can't work.
        RunError: The run broke off: see `StepTrainer`.
        Stopped: SIGTERM or Ctrl-C asked to stop, and what there was is saved.
    """
    with stop_signals() as stop, ExitStack() as held:
        try:
            return _train(args, stop, held)
        except RuntimeError as error:
            # What the processes that are left say when one has gone.
            if isinstance(error, RunError) or not re.search(r"gloo|nccl|connection closed", str(error), re.IGNORECASE):
                raise
            time.sleep(1)  # a signal that ended the other one is on its way to this one, too
            raise RunError("another process of this run has ended; its own message says why") from error
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise RunError(
                f"{error.filename or args.output_dir} can't be written: {error.strerror}; what was saved before is "
                "whole: make room (or the folder writable), then the same command with --resume auto goes on"
            ) from error


def _train(args: RunArguments, stop: StopSignals, held: ExitStack) -> dict[str, Any]:
    tasks = args.load_tasks()
    output = Path(args.output_dir)
    if args.lora_rank is not None:
        require_peft()
    encoder = find_encoder(args.encoder)
    training_args = args.training_arguments()
    check_world(training_args)
    main = training_args.process_index == 0
    checkpoint = shared(training_args, lambda: prepare_output(args, output, training_args.world_size))
    if args.resume == "auto" and (done := finished_run(output)) is not None:
        if main:
            print(f"the run in {output} is complete: nothing is left to do")
        return done
    if main and args.resume == "auto" and holds_files(output):
        print(goes_on_from(output, checkpoint))
    start_from = start_encoder(args, encoder, checkpoint)
    tokenizer = load_tokenizer(encoder, args.max_length)
    rows, features = load_features(args, tasks, tokenizer)
    # A tokenizer of its own: what it cuts at would stay in the one that is saved.
    stage = load_stage(args, tasks, rows, copy.deepcopy(tokenizer)) if start_from is None else None
    summary = summarise(tasks, rows, features)
    if args.freeze_encoder:
        features = {name: {split: FrozenFeatures(used) for split, used in features[name].items()} for name in tasks}
    if main:
        if args.data == "demo":
            print(DEMO_NOTE)
        print(summary_text(summary), flush=True)

    row_ids = {name: rows[name].splits["train"]["id"] for name in tasks}
    trainer = build_trainer(args, training_args, tasks, start_from or encoder, tokenizer, features, row_ids, stop)
    if main:
        check_room(output, trainer.model, training_args)
        if args.overwrite and output.is_dir():  # not before all that could stop this run has been checked
            with alone(output):
                shutil.rmtree(output)
        write_marker(args, tasks, output, training_args.world_size)
        held.enter_context(alone(output))
        for folder in (output, output / CHECKPOINTS):
            clear_parts(folder)
    if stage is not None:  # the model was built to check it, and is built anew on what this stage makes of its encoder
        latest = shared(training_args, lambda: resumable(output / CHECKPOINTS) if args.resume == "auto" else None)
        start_from = train_triplets(stage, encoder, tokenizer, latest, stop)
        trainer = build_trainer(args, training_args, tasks, start_from, tokenizer, features, row_ids, stop)
    counts = weight_counts(trainer.model)  # type: ignore[arg-type]
    if main and args.lora_rank is not None:
        print(f"training {counts['trained']:,} of {counts['total']:,} weights ({counts['share']:.1%})", flush=True)
    dev = {name: features[name]["dev"] for name in tasks}
    untrained = None
    if args.score_untrained:
        untrained = _by_task(trainer.evaluate(dev, metric_key_prefix="untrained"), "untrained", tasks)
    start = time.time()
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.time() - start
    if args.lora_rank is not None:  # what is saved and scored is the merged model
        finish(trainer.model, output / ADAPTER, args.encoder, main)  # type: ignore[arg-type]
    trainer.save_whole_model(output)

    scores = _by_task(trainer.evaluate(dev, metric_key_prefix="final"), "final", tasks)
    majority = {
        name: majority_baseline(task, column(features[name]["train"]["labels"]), column(dev[name]["labels"]))
        for name, task in tasks.items()
    }
    warnings = unlearnt(tasks, trainer.state.log_history, scores, majority)
    result = {
        "score": multitask_score({name: scores[name][task.score] for name, task in tasks.items()}),
        "scores": scores,
        "untrained": untrained,
        "majority": majority,
        "triplet": stage_metrics(start_from or encoder) if args.triplet_loss != "none" else None,
        "weights": counts,
        "steps": trainer.state.global_step,
        "train_seconds": round(seconds, 1),
        "train_examples_per_second": round(trained.metrics.get("train_samples_per_second", 0.0), 1),
        "data": summary,
        "warnings": warnings,
        "history": trainer.state.log_history,
        "arguments": described(args, tasks),
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "processes": training_args.world_size},
        "versions": {name: version(name) for name in ("torch", "transformers", "datasets", "accelerate", "evaluate")}
        | {"python": platform.python_version()},
    }
    if main:
        for name, task in tasks.items():
            used = rows[name].splits["dev"]
            path = output / "predictions" / f"{name}-dev.csv"
            write_predictions(path, task, used["id"], trainer.answers(name), used["label"])
        with whole_file(output / METRICS) as file:
            json.dump(result, file, indent=2, ensure_ascii=False)
        print(result_table(tasks, {"majority": majority, "untrained": untrained, "trained": scores}))
        for line in warnings:
            print(f"warning: {line}")
        print(f"model, metrics.json and predictions/ are in {output}")
    return result


def unlearnt(
    tasks: Mapping[str, Task],
    history: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, float]],
    majority: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """A line for each task that was never better than one answer for every row, in any evaluation of the run."""
    lines = []
    for name, task in tasks.items():
        key = f"eval_{name}/{task.score}"
        seen = [entry[key] for entry in history if key in entry] + [scores[name][task.score]]
        if max(seen) <= majority[name][task.score] + 1e-6:
            lines.append(
                f"task '{name}' was never better than one answer for every row: {task.score} {max(seen):.3f} at best "
                f"in {len(seen)} evaluations, {majority[name][task.score]:.3f} for that answer; more epochs, another "
                "learning_rate or fewer head_blocks may help, or its labels don't follow from its sentences"
            )
    return lines


def load_features(args: RunArguments, tasks: Mapping[str, Task], tokenizer: Any) -> tuple[dict[str, TaskData], Any]:
    """Rows by task, and their features by task and split.

    Raises:
        InputError: Rows that can't be loaded, or a question that leaves no room for sentences in `max_length`.
    """
    encoders = {name: PromptEncoder(args.format, tokenizer, task, args.max_length) for name, task in tasks.items()}
    rows = load_data(tasks, args.data, strict=args.strict, cache=args.cache)
    features = {
        name: {
            split: encode(used, encoders[name], rows[name].keys.get(split), f"{name} {split}")
            for split, used in rows[name].splits.items()
        }
        for name in tasks
    }
    return rows, features


def build_trainer(
    args: RunArguments,
    training_args: TrainingArguments,
    tasks: Mapping[str, Task],
    encoder: str,
    tokenizer: Any,
    features: Mapping[str, Mapping[str, Any]],
    row_ids: Mapping[str, Sequence[str]],
    stop: StopSignals,
) -> QABertTrainer:
    """A new model with a pretrained encoder, and its trainer."""
    set_seed(training_args.seed)
    try:
        model = QABertModel.from_encoder(
            encoder,
            tasks=[task.to_dict() for task in tasks.values()],
            input_format=args.format,
            max_length=args.max_length,
            head_blocks=args.head_blocks,
            head_width=args.head_width,
            head_dropout=args.head_dropout,
            freeze_encoder=args.freeze_encoder,
            pooling=args.pooling,
            priors=label_priors(tasks, features) if args.weighted_sampling and args.prior_correction else None,
            dropout=args.dropout,
            attn_implementation=args.attn_implementation,
        )
        if args.lora_rank is not None:
            add_adapters(model, args.lora_rank, args.lora_alpha, args.lora_dropout, args.lora_targets)
        try_out(model, tokenizer)
    except InputError:
        raise
    except Exception as error:
        if (problem := loading_problem(error)) is None:
            raise
        raise InputError(f"encoder '{encoder}' can't be loaded: {problem}") from None
    patience = args.early_stopping_patience
    return QABertTrainer(
        model,
        training_args,
        tasks=tasks,
        train_dataset={name: features[name]["train"] for name in tasks},
        eval_dataset={
            name: _subset(features[name]["dev"], args.eval_examples.get(name), training_args.seed) for name in tasks
        },
        processing_class=tokenizer,
        order=args.order,
        weighted_sampling=args.weighted_sampling,
        examples_per_epoch=args.examples_per_epoch,
        head_learning_rate=args.head_learning_rate,
        row_ids=row_ids,
        stop=stop,
        callbacks=[EarlyStoppingCallback(patience)] if patience else [],
    )


def label_priors(tasks: Mapping[str, Task], features: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Share of each label in the training rows of every task with labels, as if each had been seen once more."""
    return {
        name: ((counts + 1) / (counts + 1).sum()).tolist()
        for name, task in tasks.items()
        if task.labels
        for counts in [np.bincount(column(features[name]["train"]["labels"]), minlength=len(task.labels))]
    }


def _by_task(metrics: Mapping[str, float], prefix: str, tasks: Mapping[str, Task]) -> dict[str, dict[str, float]]:
    return {
        name: {metric: metrics[f"{prefix}_{name}/{metric}"] for metric in (*task.metrics, "loss")}
        for name, task in tasks.items()
    }


def _subset(features: Any, rows: int | None, seed: int) -> Any:
    """A fixed random choice of dev rows, the same for every model that is trained with this seed."""
    if rows is None or rows >= len(features):
        return features
    return features.select(np.sort(np.random.default_rng(seed).choice(len(features), rows, replace=False)))
