"""The triplet stage: train the encoder alone on frames, before any head (paper, section 4.2.1).

A frame is an anchor, a sentence that should be near it and some that should be far (see `qabert.data.triplets`).  The
stage leaves `OUTPUT/triplet/`, a plain encoder folder that the multitask stage, or another run's `--encoder`, starts
from.  Its order of frames is a pure function of (seed, epoch, processes), as everywhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainingArguments

from qabert.checkpoints import remove, whole_folder
from qabert.data.sampling import column
from qabert.data.sources import TaskData
from qabert.data.triplets import Triplets, build_triplets
from qabert.errors import InputError
from qabert.files import whole_file
from qabert.modeling import QABertModel
from qabert.tables import table
from qabert.tasks import Task
from qabert.training.arguments import RunArguments
from qabert.training.stopping import StopSignals
from qabert.training.triplet_trainer import DevFrames, Frames, TripletTrainer, frame_rows

if TYPE_CHECKING:
    import datasets

#: Folder of the finished stage, and of its checkpoints while it isn't, inside the run's.
STAGE, CHECKPOINTS = "triplet", "triplet-checkpoints"
#: Dev frames of each task that the stage is measured on, drawn the same for every model and seed.
DEV_FRAMES = 500


@dataclass(frozen=True)
class TripletStage:
    """All that the stage needs; loading it checks all that can be wrong with the input."""

    args: RunArguments
    training_args: TrainingArguments
    train: Frames
    dev: DevFrames


def start_encoder(args: RunArguments, encoder: str, checkpoint: str | None) -> str | None:
    """The encoder that the multitask stage starts from, or None where the triplet stage has to make it first.

    Args:
        args: The run's.
        encoder: The pretrained one.
        checkpoint: Multitask checkpoint that the run goes on from; its weights include what the triplet stage did.

    Raises:
        InputError: The checkpoint is one of the triplet stage.
    """
    if checkpoint is not None and Path(checkpoint).resolve().parent.name == CHECKPOINTS:
        raise InputError(f"key 'resume': '{checkpoint}' is of the triplet stage, which goes on with --resume auto")
    if args.triplet_loss == "none":
        return encoder
    if args.resume != "never":
        done = (Path(checkpoint).parent if checkpoint else Path(args.output_dir)) / STAGE
        if done.is_dir():
            return str(done)
    return None if checkpoint is None else encoder


def load_stage(
    args: RunArguments, tasks: Mapping[str, Task], rows: Mapping[str, TaskData], tokenizer: Any
) -> TripletStage:
    """Frames of the training rows, measures from the dev rows, and the stage's arguments.

    Raises:
        InputError: The rows make no frames, or an argument can't work.
    """
    # Trackers follow the multitask stage; this one's log is in its metrics.json.
    keys = {
        "num_train_epochs": args.triplet_epochs, "learning_rate": args.triplet_learning_rate,
        "per_device_train_batch_size": args.triplet_batch_size, "max_steps": -1, "eval_strategy": "no",
        "eval_on_start": False, "load_best_model_at_end": False, "report_to": ["none"],
    }  # fmt: skip
    if args.trainer.get("save_strategy") == "best":  # nothing is scored here
        keys["save_strategy"] = "epoch"
    folder = str(Path(args.output_dir) / CHECKPOINTS)
    training_args = dataclasses.replace(args, output_dir=folder, trainer=args.trainer | keys).training_arguments()
    built = _built("train", tasks, {name: rows[name].splits["train"] for name in tasks}, training_args.seed)
    train = Frames(tokenise(built.sentences, tokenizer, args.max_length), built.frames, built.skipped)
    dev = dev_frames(tasks, {name: rows[name].splits["dev"] for name in tasks}, tokenizer, args.max_length)
    return TripletStage(args, training_args, train, dev)


def _built(split: str, tasks: Mapping[str, Task], rows: Mapping[str, datasets.Dataset], seed: int) -> Triplets:
    try:
        return build_triplets(tasks, rows, seed=seed)
    except InputError as error:
        raise InputError(f"triplets of the {split} rows: {error}") from None


def tokenise(sentences: datasets.Dataset, tokenizer: Any, max_length: int) -> datasets.Dataset:
    """Token ids of the column `text`, each sentence alone and at most `max_length` long, and their `length`."""

    def encode(batch: Mapping[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=max_length, verbose=False)
        tokens = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
        return tokens | {"length": [len(ids) for ids in encoded["input_ids"]]}

    return sentences.map(encode, batched=True, remove_columns=sentences.column_names, desc="triplet sentences")


def dev_frames(
    tasks: Mapping[str, Task], rows: Mapping[str, datasets.Dataset], tokenizer: Any, max_length: int
) -> DevFrames:
    """At most `DEV_FRAMES` frames of each task, and all sentence pairs of its regressions."""
    import datasets

    built = _built("dev", tasks, rows, 0)
    generator = np.random.default_rng(0)
    frames = {}
    for name, of_task in built.frames.items():
        chosen = generator.choice(len(of_task), min(DEV_FRAMES, len(of_task)), replace=False)
        frames[name] = frame_rows(of_task.select(np.sort(chosen)))
    numbers: dict[str, int] = {}
    for name, indices in frames.items():
        texts = built.sentences[indices.ravel().tolist()]["text"]
        frames[name] = np.array([numbers.setdefault(text, len(numbers)) for text in texts]).reshape(indices.shape)
    pairs = {}
    for name, task in tasks.items():
        if task.pair and task.problem == "regression":
            sides = [[numbers.setdefault(t, len(numbers)) for t in rows[name][key]] for key in ("text_a", "text_b")]
            pairs[name] = (np.array(sides).T, column(rows[name]["label"]))
    sentences = datasets.Dataset.from_dict({"text": list(numbers)})
    return DevFrames(tokenise(sentences, tokenizer, max_length), frames, pairs)


def train_triplets(
    stage: TripletStage, encoder: str, tokenizer: Any, checkpoint: str | None, stop: StopSignals | None = None
) -> str:
    """Train the encoder and write `OUTPUT/triplet/`: its weights, its tokenizer, `metrics.json`.

    Args:
        stage: What `load_stage` made.
        encoder: Folder or hub name of the encoder to start from.
        tokenizer: Its tokenizer.
        checkpoint: The stage's own checkpoint to go on from.
        stop: Signals to look at after every step.

    Returns:
        The folder, whole: all of it is there, or nothing.
    """
    args, output = stage.args, Path(stage.args.output_dir)
    # The multitask model's own way to an encoder (its dropout, attention, no unused pooler), with no heads on it.
    model = QABertModel.from_encoder(
        encoder,
        dropout=args.dropout,
        attn_implementation=args.attn_implementation,
        tasks=[],
        max_length=args.max_length,
    ).encoder
    trainer = TripletTrainer(
        model,
        stage.training_args,
        loss=args.triplet_loss,
        train=stage.train,
        processing_class=tokenizer,
        pooling=args.pooling,
        order=args.order,
        examples_per_epoch=args.triplet_examples,
        stop=stop,
    )
    main = trainer.is_world_process_zero()
    counts = {name: len(frames) for name, frames in stage.train.frames.items()}
    if main:
        told = ", ".join(f"{number:,} of {name}" for name, number in counts.items())
        print(f"triplet stage, {args.triplet_loss}: frames {told}", flush=True)
    before = trainer.measure(stage.dev)
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = trainer.seconds
    after = trainer.measure(stage.dev)
    with whole_folder(output / STAGE, main, trainer.accelerator.wait_for_everyone) as part:
        trainer.save_model(str(part))  # on every process: FSDP gathers here
        metrics = {
            "loss": args.triplet_loss,
            "before": before,
            "after": after,
            "steps": trainer.state.global_step,
            "seconds": round(seconds, 1),
            "frames": counts,
            "skipped": dict(stage.train.skipped),
            "sentences": len(stage.train.sentences),
            "history": trainer.state.log_history,
        }
        if main:
            with whole_file(part / "metrics.json") as file:
                json.dump(metrics, file, indent=2, ensure_ascii=False)
    if main:
        remove(output / CHECKPOINTS)
        print(measure_table(before, after), flush=True)
    trainer.accelerator.wait_for_everyone()
    return str(output / STAGE)


def stage_metrics(folder: str | Path) -> dict[str, Any] | None:
    """What a finished stage's `metrics.json` holds; None where the folder is none of a stage."""
    path = Path(folder) / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def measure_table(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> str:
    """The dev measures of `TripletTrainer.measure`, before and after training."""
    lines = [
        [name, key, f"{value:.3f}", f"{after[name][key]:.3f}"]
        for name, measures in before.items()
        for key, value in measures.items()
    ]
    return table(["task", "measure (dev frames)", "before", "after"], lines)
