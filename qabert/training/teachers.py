"""Teachers: trained models whose answers are learnt beside the training rows' labels (Hinton et al., 2015)."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets.arrow_writer import ArrowWriter
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import TrainingArguments

import qabert
from qabert.answers import decide
from qabert.checkpoints import CHECKSUMS
from qabert.data.augmentation import further_rows
from qabert.data.cache import cached
from qabert.data.orders import joined
from qabert.data.sources import TaskData
from qabert.errors import InputError, unknown
from qabert.inference import Predictor
from qabert.model_config import declared_tasks, read_config
from qabert.model_files import local_folder
from qabert.tasks import Task
from qabert.training.arguments import RunArguments

if TYPE_CHECKING:
    import datasets

#: What a teacher's task has to have in common with the run's; it may ask another question.
MEANING = ("problem", "labels", "range", "pair")
#: Rows that a teacher answers at once, and that are kept together.
SHARE = 1024


class Taught(Dataset):
    """Training features with a teacher's answer to each row, and how much it counts beside the row's label.

    Args:
        features: Rows, maybe as `BothOrders`.
        answers: The teacher's, see `losses.activate`: `(rows,)` or `(rows, classes)`.
        weights: Share of each row's target that is the teacher's answer, `(rows,)`.
    """

    def __init__(self, features: Any, answers: np.ndarray, weights: np.ndarray) -> None:
        self.features, self.answers, self.weights = features, answers, weights

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, key: Any) -> Any:
        """A row's features with its `teacher` and `teacher_weight`, or a column by its name."""
        if isinstance(key, str):
            return self.features[key]
        row = key % len(self.answers)
        return {**self.features[key], "teacher": self.answers[row], "teacher_weight": self.weights[row]}

    @property
    def both(self) -> Taught | None:
        """All rows in both orders (see `BothOrders`), if they are to be had."""
        both = getattr(self.features, "both", None)
        return None if both is None else Taught(both, self.answers, self.weights)


def check_teachers(
    teachers: Mapping[str, Sequence[str]], tasks: Mapping[str, Task], augment: Mapping[str, int] | None = None
) -> None:
    """Check that each teacher has the task it is to teach.

    Args:
        teachers: Folders or hub names of trained models, by task.
        tasks: The run's.
        augment: The run's.

    Raises:
        InputError: There is no such task or model, or it answers something else; or nobody would label further rows.
    """
    for name in augment or {}:
        if name not in tasks:
            raise unknown("task", name, tasks, "key 'augment'")
        if name not in teachers:
            raise InputError(
                f"key 'augment', task '{name}': nobody labels the further rows; name its teacher in 'teachers' too"
            )
    for name, models in teachers.items():
        if name not in tasks:
            raise unknown("task", name, tasks, "key 'teachers'")
        for model in models:
            found = declared_tasks(read_config(model))
            if name not in found:
                raise unknown("task", name, found, f"key 'teachers', model '{model}'")
            for key in MEANING:
                theirs, ours = getattr(found[name], key), getattr(tasks[name], key)
                if theirs != ours:
                    raise InputError(
                        f"key 'teachers', model '{model}': its task '{name}' has {key} {theirs!r}, the run's has "
                        f"{ours!r}"
                    )


def teach(
    run: RunArguments,
    tasks: Mapping[str, Task],
    rows: Mapping[str, TaskData],
    features: Mapping[str, Mapping[str, Any]],
    encode_rows: Callable[[str, datasets.Dataset], Any],
    args: TrainingArguments,
) -> tuple[dict[str, Taught], dict[str, list[str]]]:
    """What the teachers say of the training rows, and of further rows where `augment` asks for them.

    A teacher's answers are kept beside the tokenised rows (see `qabert.data.cache`), by its weights' checksum.  Of
    several teachers' answers to a row the mean counts.  A further row has no label of its own: its teachers' answer is
    all of its target, and their decision the label that it is drawn by.

    Args:
        run: The run's arguments; `check_teachers` found nothing wrong with them.
        tasks: The run's tasks.
        rows: Their rows.
        features: Their features, by task and split.
        encode_rows: Makes features of further rows of a task.
        args: The Trainer's: which device, what to compute in.

    Returns:
        By task with a teacher: its training features, and the ids of their rows.
    """
    taught, ids = {}, {}
    for name, models in run.teachers.items():
        data, own = rows[name], features[name]["train"]
        answers = _mean_answers(models, name, data.splits["train"], data.keys.get("train"), args)
        weights = np.full(len(answers), run.teacher_weight, dtype=np.float32)
        ids[name] = list(data.splits["train"]["id"])
        if count := run.augment.get(name):
            # The same for every seed of a run: a teacher's hour is spent once, and seeds differ in training alone.
            more = further_rows(data.splits["train"], tasks[name].pair, count)
            key = data.keys.get("train") and f"{data.keys['train']} {count}"
            said = _mean_answers(models, name, more, key, args)
            labelled = more.add_column("label", decide(tasks[name], said).tolist()).cast(data.splits["train"].features)
            own = joined(own, encode_rows(name, labelled))
            answers, weights = np.concatenate([answers, said]), np.append(weights, np.ones(len(said), np.float32))
            ids[name] += more["id"]
        taught[name] = Taught(own, answers, weights)
    return taught, ids


def _mean_answers(
    models: Sequence[str], task: str, rows: datasets.Dataset, key: str | None, args: TrainingArguments
) -> np.ndarray:
    return np.mean([_answers(model, task, rows, key, args) for model in models], axis=0).astype(np.float32)


def _answers(
    model: str, task: str, rows: datasets.Dataset, rows_key: str | None, args: TrainingArguments
) -> np.ndarray:
    """One teacher's answers, share by share.

    Each of several processes begins at a place of its own and goes once around: what another has computed, or computes
    just then, it reads from the cache.  A run that was cut goes on with the share that it was at.
    """
    dtype = "bfloat16" if args.bf16 else "float32"
    key = _key(model, task, rows_key, dtype)
    shares = range(0, len(rows), SHARE)
    predictor: list[Predictor] = []  # loaded where something is left to answer

    def computed(first: int) -> np.ndarray:
        predictor[:] = predictor or [Predictor.from_pretrained(model, str(args.device), dtype=dtype)]
        part = rows[first : first + SHARE]
        return np.concatenate(list(predictor[0].answers(task, zip(part["text_a"], part["text_b"], strict=True))))

    def written(first: int, path: str) -> None:
        with ArrowWriter(path=path) as writer:
            writer.write_batch({"answer": computed(first).tolist()})
            writer.finalize()

    def answered(first: int) -> np.ndarray:
        kept = None if key is None else cached(_digest(key, str(first)), functools.partial(written, first))
        return computed(first) if kept is None else kept[0].with_format("numpy")["answer"][:]

    own = len(shares) * args.process_index // args.world_size
    found = {}
    quiet = args.disable_tqdm or args.process_index > 0
    with tqdm(total=len(rows), desc=f"{task}: answers of {model}", unit="row", delay=2, disable=quiet) as bar:
        for first in (*shares[own:], *shares[:own]):
            found[first] = np.asarray(answered(first), dtype=np.float32)
            bar.update(len(found[first]))
    return np.concatenate([found[first] for first in shares])


def _key(model: str, task: str, rows: str | None, dtype: str) -> str | None:
    """What a teacher's answers follow from, as a digest; None where that can't be said."""
    path = local_folder(model) / CHECKSUMS
    if rows is None or not path.is_file():
        return None
    root = Path(qabert.__file__).parent
    made_by = ("inference.py", "data/augmentation.py", "training/teachers.py")
    sources = [*sorted((root / "modeling").glob("*.py")), *(root / name for name in made_by)]
    parts = [path.read_bytes(), *(source.read_bytes() for source in sources)]
    told = [rows, task, dtype, torch.__version__, *(hashlib.sha256(part).hexdigest() for part in parts)]
    return _digest("answers", *told)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
