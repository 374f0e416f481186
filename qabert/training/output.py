"""The folder of a run: whether it may be written, what it holds already, from where it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from transformers import TrainingArguments

from qabert.checkpoints import checkpoints, newest_whole, problem
from qabert.errors import InputError
from qabert.files import check_place, whole_file
from qabert.tasks import Task
from qabert.training.arguments import RunArguments
from qabert.training.triplets import CHECKPOINTS, STAGE
from qabert.yaml_files import read_yaml

#: What a run writes last.
METRICS = "metrics.json"
#: Marks a folder as a run's, and is what a resumed run is compared with.
MARKER = "arguments.yaml"
#: Keys that a resumed run may change without becoming another run.
_FREE = {"resume", "overwrite", "output_dir", "logging_steps", "disable_tqdm", "report_to", "save_total_limit",
         "cache", "ddp_backend", "ddp_timeout", "dataloader_num_workers", "push_to_hub", "hub_model_id",
         "hub_private_repo", "hub_strategy"}  # fmt: skip
#: What cuts a step into batches.
_CUT = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")


def prepare_output(args: RunArguments, output: Path, processes: int = 1) -> str | None:
    """Check the output folder and find the checkpoint to go on from.  For the main process: the others leave it alone.

    Raises:
        InputError: The folder holds a run (or something else) and neither `resume` nor `overwrite` says what to do; the
            settings of the run to resume differ; a named checkpoint isn't there or isn't whole; the folder can't be
            written.
    """
    check_place(output, folder=True)
    if args.overwrite and args.resume != "never":
        raise InputError("keys 'overwrite' and 'resume' exclude each other: a deleted run can't go on")
    held = holds_files(output)
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
        checkpoint = resumable(output)
    return checkpoint


def _same_settings(args: RunArguments, output: Path, processes: int) -> None:
    if not (output / MARKER).is_file():
        return
    before, now = read_yaml(output / MARKER), described(args, args.load_tasks()) | {"processes": processes}
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


def _step_rows(values: Mapping[str, Any]) -> float:
    """Rows of an optimizer step."""
    return float(np.prod([float(values.get(key) or 1) for key in _CUT]))


def _number(value: Any) -> Any:
    """The number that a text such as `5e-5` writes, which a flag and YAML leave a text; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def resumable(output: Path) -> str | None:
    """The newest whole checkpoint of a folder, as the Trainer wants it."""
    found = newest_whole(output)
    return None if found is None else str(found)


def holds_files(output: Path) -> bool:
    """Whether the folder is there and not empty."""
    return output.is_dir() and any(output.iterdir())


def goes_on_from(output: Path, checkpoint: str | None) -> str:
    """A line that says from where a run that isn't complete goes on."""
    stage = output / STAGE if (output / STAGE).is_dir() else resumable(output / CHECKPOINTS)
    latest = checkpoint or stage
    return f"going on from {latest}" if latest else f"{output} holds no whole checkpoint: starting anew"


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


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep other runs out of the folder until this one has ended, however it ends: a launcher's death leaves workers.

    Raises:
        InputError: Another run is at it.
    """
    try:
        with FileLock(output / ".lock", timeout=0):
            try:
                yield
            finally:
                (output / ".lock").unlink(missing_ok=True)
    except Timeout:
        raise InputError(f"output_dir {output}: another process is training there; wait for it, or end it") from None


def write_marker(args: RunArguments, tasks: Mapping[str, Task], output: Path, processes: int) -> None:
    """Make the output folder this run's: from here on another run won't write to it unasked.

    Raises:
        InputError: The folder can't be written.
    """
    try:
        with whole_file(output / MARKER) as file:
            values = described(args, tasks) | {"processes": processes}
            yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)
    except OSError as error:
        raise InputError(f"output_dir {output} can't be written: {error.strerror or error}") from None


def described(args: RunArguments, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The run's keys as plain values, the tasks written out."""
    values = args.to_dict() | {"tasks": {name: task.to_dict() for name, task in tasks.items()}}
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def shared(training_args: TrainingArguments, ask: Callable[[], str | None]) -> str | None:
    """What the main process answers, on every process: what each found for itself could differ."""
    answers = [ask() if training_args.process_index == 0 else None]
    if training_args.world_size > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(answers)
    return answers[0]
