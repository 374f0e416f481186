"""A training run from arguments to scores: check → rows → features → model → trainer → train → save → score.

Everything that can be wrong with the input is checked in that order, cheapest first, before a model is loaded.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from qabert.checkpoints import checkpoints, clear_parts, newest_whole, problem
from qabert.data.demo import DEMO_NOTE
from qabert.data.prompts import PromptEncoder
from qabert.data.sampling import column
from qabert.data.sources import TaskData, load_data
from qabert.data.summary import summarise, summary_text
from qabert.errors import InputError, RunError, loading_problem
from qabert.evaluation.metrics import majority_baseline, multitask_score
from qabert.evaluation.scores import result_table
from qabert.files import whole_file
from qabert.inference import write_predictions
from qabert.modeling import QABertModel
from qabert.tasks import Task
from qabert.training.arguments import RunArguments
from qabert.training.encoders import find_encoder, load_tokenizer
from qabert.training.step_trainer import check_world
from qabert.training.stopping import StopSignals, stop_signals
from qabert.training.trainer import QABertTrainer
from qabert.training.triplets import CHECKPOINTS, STAGE, load_stage, stage_metrics, start_encoder, train_triplets
from qabert.yaml_files import read_yaml

#: What a run writes last.
METRICS = "metrics.json"
#: Marks a folder as a run's, and is what a resumed run is compared with.
MARKER = "arguments.yaml"
#: Keys that a resumed run may change without becoming another run.
_FREE = {"resume", "overwrite", "output_dir", "logging_steps", "disable_tqdm", "report_to", "save_total_limit"}
#: A disk that is full, over its quota, or read-only; a file that may not be written, or not that long.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


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
    with stop_signals() as stop:
        try:
            return _train(args, stop)
        except OSError as error:
            if error.errno not in _DISK:
                raise
            raise RunError(
                f"{error.filename or args.output_dir} can't be written: {error.strerror}; what was saved before is "
                "whole: make room (or the folder writable), then the same command with --resume auto goes on"
            ) from error


def _train(args: RunArguments, stop: StopSignals) -> dict[str, Any]:
    tasks = args.load_tasks()
    output = Path(args.output_dir)
    encoder = find_encoder(args.encoder)
    training_args = args.training_arguments()
    check_world(training_args)
    main = training_args.process_index == 0
    checkpoint = shared(training_args, lambda: prepare_output(args, output, training_args.world_size))
    if args.resume == "auto" and (done := finished_run(output)) is not None:
        if main:
            print(f"the run in {output} is complete: nothing is left to do")
        return done
    start_from = start_encoder(args, encoder, checkpoint)
    tokenizer = load_tokenizer(encoder, args.max_length)
    rows, features = load_features(args, tasks, tokenizer)
    stage = load_stage(args, tasks, rows, tokenizer) if start_from is None else None
    summary = summarise(tasks, rows, features)
    if main:
        if args.data == "demo":
            print(DEMO_NOTE)
        print(summary_text(summary), flush=True)

    row_ids = {name: rows[name].splits["train"]["id"] for name in tasks}
    trainer = build_trainer(args, training_args, tasks, start_from or encoder, tokenizer, features, row_ids, stop)
    if main:
        check_room(output, trainer.model, training_args)
        if args.overwrite and output.is_dir():  # not before all that could stop this run has been checked
            shutil.rmtree(output)
        write_marker(args, tasks, output, training_args.world_size)
        for folder in (output, output / CHECKPOINTS):
            clear_parts(folder)
    if stage is not None:  # the model was built to check it, and is built anew on what this stage makes of its encoder
        latest = shared(training_args, lambda: _resumable(output / CHECKPOINTS) if args.resume == "auto" else None)
        start_from = train_triplets(stage, encoder, tokenizer, latest, stop)
        trainer = build_trainer(args, training_args, tasks, start_from, tokenizer, features, row_ids, stop)
    dev = {name: features[name]["dev"] for name in tasks}
    untrained = None
    if args.score_untrained:
        untrained = _by_task(trainer.evaluate(dev, metric_key_prefix="untrained"), "untrained", tasks)
    start = time.time()
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.time() - start
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
        "steps": trainer.state.global_step,
        "train_seconds": round(seconds, 1),
        "train_examples_per_second": round(trained.metrics.get("train_samples_per_second", 0.0), 1),
        "data": summary,
        "warnings": warnings,
        "history": trainer.state.log_history,
        "arguments": _described(args, tasks),
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


def shared(training_args: TrainingArguments, ask: Callable[[], str | None]) -> str | None:
    """What the main process answers, on every process: what each found for itself could differ."""
    answers = [ask() if training_args.process_index == 0 else None]
    if training_args.world_size > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(answers)
    return answers[0]


def finished_run(output: Path) -> dict[str, Any] | None:
    """What `metrics.json` holds, which a run writes last; None where there is none, or the model isn't whole."""
    path = output / METRICS
    if not path.is_file() or problem(output) is not None:
        return None
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def check_room(output: Path, model: Any, training_args: TrainingArguments) -> None:
    """Check that the disk has room for two checkpoints (the new one is whole before the old one goes) and the model.

    Raises:
        InputError: It hasn't.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    copies = 0 if training_args.save_strategy == "no" else 2 - min(len(checkpoints(output)), 1)
    needed = size + copies * (size + (0 if training_args.save_only_model else 2 * trained))  # Adam's two moments
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if (free := shutil.disk_usage(existing).free) < needed:
        raise InputError(
            f"output_dir {output}: the disk has {free / 2**20:,.0f} MiB left and the run writes at least "
            f"{needed / 2**20:,.0f} MiB; make room, or choose another output_dir, or --save_strategy no"
        )


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
    rows = load_data(tasks, args.data, strict=args.strict)
    features = {
        name: {
            split: used.map(encoders[name], batched=True, remove_columns=used.column_names, desc=f"{name} {split}")
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


def write_marker(args: RunArguments, tasks: Mapping[str, Task], output: Path, processes: int) -> None:
    """Make the output folder this run's: from here on another run won't write to it unasked.

    Raises:
        InputError: The folder can't be written.
    """
    try:
        with whole_file(output / MARKER) as file:
            values = _described(args, tasks) | {"processes": processes}
            yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)
    except OSError as error:
        raise InputError(f"output_dir {output} can't be written: {error.strerror or error}") from None


def prepare_output(args: RunArguments, output: Path, processes: int = 1) -> str | None:
    """Check the output folder and find the checkpoint to go on from.  For the main process: the others leave it alone.

    Raises:
        InputError: The folder holds a run (or something else) and neither `resume` nor `overwrite` says what to do; the
            settings of the run to resume differ; a named checkpoint isn't there or isn't whole; the folder can't be
            written.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"output_dir {output} is a file; expected a folder")
    if args.overwrite and args.resume != "never":
        raise InputError("keys 'overwrite' and 'resume' exclude each other: a deleted run can't go on")
    held = output.is_dir() and any(output.iterdir())
    if args.resume not in ("auto", "never"):
        if not (Path(args.resume) / "trainer_state.json").is_file():
            raise InputError(
                f"key 'resume': '{args.resume}' is no checkpoint; expected 'auto', or a checkpoint-… folder"
            )
        if (found := problem(Path(args.resume))) is not None:
            raise InputError(f"key 'resume': checkpoint '{args.resume}' isn't whole: {found}")
        return args.resume
    if held and args.overwrite:
        if not (output / MARKER).is_file():
            raise InputError(f"output_dir {output} holds no {MARKER}, so it isn't a run of qabert; it is left as it is")
    elif held and args.resume == "never":
        raise InputError(
            f"output_dir {output} already holds a run or other files: choose another --output_dir, go on with "
            "--resume auto, or delete the run with --overwrite"
        )
    checkpoint = None
    if held and args.resume == "auto":
        _same_settings(args, output, processes)
        checkpoint = _resumable(output)
        stage = output / STAGE if (output / STAGE).is_dir() else _resumable(output / CHECKPOINTS)
        latest = checkpoint or stage
        if finished_run(output) is None:
            print(f"going on from {latest}" if latest else f"{output} holds no whole checkpoint: starting anew")
    # Asked, not tried: a run that fails on its data must leave no folder behind.
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"output_dir {output} can't be written: no permission in {existing}, or it is a file")
    return checkpoint


def _resumable(output: Path) -> str | None:
    found = newest_whole(output)
    return None if found is None else str(found)


def _same_settings(args: RunArguments, output: Path, processes: int) -> None:
    if not (output / MARKER).is_file():
        return
    before, now = read_yaml(output / MARKER), _described(args, args.load_tasks()) | {"processes": processes}
    before.setdefault("processes", 1)
    if _step_rows(before) == _step_rows(now):  # a step's rows are the same, however it is cut
        for key in _CUT:
            if before.get(key) != now.get(key):
                print(f"{key} was {before.get(key)} and is {now.get(key)}: the same rows, but not the same rounding")
                now[key] = before.get(key)
    for key in sorted(set(before) | set(now)):
        if key not in _FREE and _number(before.get(key)) != _number(now.get(key)):
            what = "number of processes" if key == "processes" else f"key '{key}'"
            raise InputError(
                f"{what} was {before.get(key)!r} in the run that {output} holds and is {now.get(key)!r} now: "
                "resume with the same settings, or choose another --output_dir"
            )


#: What cuts a step into batches.
_CUT = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")


def _step_rows(values: Mapping[str, Any]) -> float:
    """Rows of an optimizer step."""
    return float(np.prod([float(values.get(key) or 1) for key in _CUT]))


def _number(value: Any) -> Any:
    """The number that a text such as `5e-5` writes, which a flag and YAML leave a text; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _described(args: RunArguments, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The run's keys as plain values, the tasks written out."""
    values = args.to_dict() | {"tasks": {name: task.to_dict() for name, task in tasks.items()}}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


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
