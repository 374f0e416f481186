"""A training run from arguments to scores: check → rows → features → model → trainer → train → save → score.

Everything that can be wrong with the input is checked in that order, cheapest first, before a model is loaded.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from qabert.answers import write_predictions
from qabert.checkpoints import clear_parts
from qabert.data.demo import DEMO_NOTE
from qabert.data.summary import summarise, summary_text
from qabert.errors import RunError
from qabert.evaluation.figures import model_figures
from qabert.evaluation.metrics import majority_baseline, multitask_score
from qabert.evaluation.scores import result_table
from qabert.files import DISK_ERRORS, whole_file
from qabert.hub.callback import PushCheckpoints
from qabert.hub.push import check_token
from qabert.tasks import Task
from qabert.training.adding_tasks import TrainedModel, adopt
from qabert.training.arguments import RunArguments
from qabert.training.building import RunData, build_trainer, encode_more, load_features
from qabert.training.encoders import find_encoder, load_tokenizer
from qabert.training.frozen import frozen
from qabert.training.lora import ADAPTER, finish, require_peft, weight_counts
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
from qabert.training.results import by_task, circumstances, publish, unlearnt
from qabert.training.step_trainer import check_world
from qabert.training.stopping import StopSignals, stop_signals
from qabert.training.teachers import check_teachers, teach
from qabert.training.trackers import Trackers, tracker_names
from qabert.training.trainer import QABertTrainer
from qabert.training.triplets import CHECKPOINTS, load_stage, stage_metrics, start_encoder, train_triplets


def train(args: RunArguments, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, Any]:
    """Train as told, and write model, scores and predictions to `args.output_dir`.

    Args:
        args: The run's.
        callbacks: More callbacks of the training loop.

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
            return _train(args, stop, held, callbacks)
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


def _train(
    args: RunArguments, stop: StopSignals, held: ExitStack, callbacks: Sequence[TrainerCallback]
) -> dict[str, Any]:
    if args.model is not None:
        args = adopt(args, args.model)
    tasks = args.load_tasks()
    output = Path(args.output_dir)
    if args.lora_rank is not None:
        require_peft()
    encoder = find_encoder(args.encoder) if args.model is None else args.model
    training_args = args.training_arguments()
    check_world(training_args)
    if args.push_to_hub:
        check_token()
    main = training_args.process_index == 0
    checkpoint = shared(training_args, lambda: prepare_output(args, output, training_args.world_size))
    if args.resume == "auto" and (done := finished_run(output)) is not None:
        if main:
            print(f"the run in {output} is complete: {'pushing it' if args.push_to_hub else 'nothing is left to do'}")
            publish(args, output)
        return done
    if main and args.resume == "auto" and holds_files(output):
        print(goes_on_from(output, checkpoint))
    check_teachers(args.teachers, tasks, args.augment)
    start_from = start_encoder(args, encoder, checkpoint)
    base = None if args.model is None else TrainedModel(args.model, tasks, args)
    tokenizer = load_tokenizer(encoder, args.max_length) if base is None else base.tokenizer
    if base is not None and main:
        print(base.plan)
    rows, features = load_features(args, tasks, tokenizer)
    # A tokenizer of its own: what it cuts at would stay in the one that is saved.
    stage = load_stage(args, tasks, rows, copy.deepcopy(tokenizer)) if start_from is None else None
    summary = summarise(tasks, rows, features)
    if args.freeze_encoder:
        features = {name: {split: frozen(used) for split, used in features[name].items()} for name in tasks}
    if main:
        if args.data == "demo":
            print(DEMO_NOTE)
        print(summary_text(summary), flush=True)
    taught, more_ids = teach(
        args, tasks, rows, features, lambda name, more: encode_more(args, tasks[name], more, tokenizer), training_args
    )
    row_ids = {name: rows[name].splits["train"]["id"] for name in tasks} | more_ids
    data = RunData(tasks, tokenizer, rows, features, row_ids, taught, base)

    names = tracker_names(args.trainer.get("report_to"))[0] if main else []
    trackers = Trackers(names, training_args, output, described(args, tasks))
    more = [trackers, *callbacks]
    trainer = build_trainer(args, training_args, data, start_from or encoder, stop, more)
    if main:
        check_room(output, trainer.model, training_args)
        _take_folder(args, tasks, output, training_args.world_size, held)
        held.enter_context(trackers)
    if stage is not None:  # the model was built to check it, and is built anew on what this stage makes of its encoder
        latest = shared(training_args, lambda: resumable(output / CHECKPOINTS) if args.resume == "auto" else None)
        start_from = train_triplets(stage, encoder, tokenizer, latest, stop)
        trainer = build_trainer(args, training_args, data, start_from, stop, more)
    pushes = PushCheckpoints(args.hub_model_id or "", args.hub_private_repo)
    if args.push_to_hub and args.hub_strategy == "every_save":
        trainer.add_callback(pushes)
    result = _fit(args, data, trainer, checkpoint, output)
    result |= {
        "triplet": stage_metrics(start_from or encoder) if args.triplet_loss != "none" else None,
        "data": summary,
    } | circumstances(args, tasks, training_args)
    if main:
        _write(data, trainer, result, output, trackers)
        pushes.finish()
        publish(args, output)
    return result


def _take_folder(args: RunArguments, tasks: Mapping[str, Task], output: Path, processes: int, held: ExitStack) -> None:
    """Make the folder this run's, for as long as `held` is; with `overwrite` without what was in it."""
    if args.overwrite and output.is_dir():  # not before all that could stop this run has been checked
        with alone(output):
            shutil.rmtree(output)
    write_marker(args, tasks, output, processes)
    held.enter_context(alone(output))
    for folder in (output, output / CHECKPOINTS):
        clear_parts(folder)


def _fit(
    args: RunArguments, data: RunData, trainer: QABertTrainer, checkpoint: str | None, output: Path
) -> dict[str, Any]:
    """Train, save the model, and say what came of it; what `train` returns, but for the circumstances."""
    tasks, base, main = data.tasks, data.base, trainer.is_world_process_zero()
    counts = weight_counts(trainer.model)  # type: ignore[arg-type]
    if main and args.lora_rank is not None:
        print(f"training {counts['trained']:,} of {counts['total']:,} weights ({counts['share']:.1%})", flush=True)
    untrained = None
    if args.score_untrained:
        untrained = by_task(trainer.evaluate(data.dev, metric_key_prefix="untrained"), "untrained", tasks)
    before = None
    if base is not None and (old := {name: rows for name, rows in data.dev.items() if name in base.tasks}):
        with base.as_it_was(trainer.model):
            before = by_task(trainer.evaluate(old, metric_key_prefix="before"), "before", base.declared)
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds, examples = trainer.seconds, trainer.examples_trained
    if args.lora_rank is not None:  # what is saved and scored is the merged model
        finish(trainer.model, output / ADAPTER, args.encoder, main)  # type: ignore[arg-type]
    trainer.save_whole_model(output)

    scores = by_task(trainer.evaluate(data.dev, metric_key_prefix="final"), "final", tasks)
    labels, dev_labels = data.labels("train"), data.labels("dev")
    majority = {name: majority_baseline(task, labels[name], dev_labels[name]) for name, task in tasks.items()}
    learnt = {name: task for name, task in tasks.items() if args.trains(name)}
    warnings = unlearnt(learnt, trainer.state.log_history, scores, majority)
    if base is not None:
        warnings += base.warnings + base.losses(before or {}, scores)
    return {
        "score": multitask_score({name: scores[name][task.score] for name, task in tasks.items()}),
        "scores": scores,
        "untrained": untrained,
        "before": before,
        "majority": majority,
        "weights": counts,
        "steps": trainer.state.global_step,
        "train_seconds": round(seconds, 1),
        "train_examples": examples,
        "train_examples_per_second": round(examples / seconds, 1),
        "warnings": warnings,
        "history": trainer.state.log_history,
    }


def _write(data: RunData, trainer: QABertTrainer, result: Mapping[str, Any], output: Path, trackers: Trackers) -> None:
    """Write predictions, pictures and `metrics.json`, and print the table."""
    answers = {name: trainer.answers(name) for name in data.tasks}
    for name, task in data.tasks.items():
        used = data.rows[name].splits["dev"]
        path = output / "predictions" / f"{name}-dev.csv"
        write_predictions(path, task, used["id"], answers[name], used["label"])
    labels = data.labels("dev")
    trackers.pictures(lambda folder: model_figures(data.tasks, labels, answers, folder, result["history"]))
    with whole_file(output / METRICS) as file:
        json.dump(result, file, indent=2, ensure_ascii=False)
    columns = {name: result[name] for name in ("majority", "untrained", "before")} | {"trained": result["scores"]}
    print(result_table(data.tasks, columns))
    for line in result["warnings"]:
        print(f"warning: {line}")
    print(f"model, metrics.json and predictions/ are in {output}", flush=True)
