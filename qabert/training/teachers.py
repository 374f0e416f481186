"""Teachers: trained models whose answers are learnt beside the training rows' labels (Hinton et al., 2015)."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import concatenate_datasets
from torch.utils.data import Dataset
from transformers import TrainingArguments

import qabert
from qabert.answers import decide
from qabert.checkpoints import CHECKSUMS
from qabert.data.cache import cached
from qabert.data.fragments import fragments, with_labels
from qabert.data.sources import TaskData
from qabert.errors import InputError, unknown
from qabert.inference import CHUNK, Predictor, read_config
from qabert.model_files import local_folder
from qabert.tasks import Task
from qabert.training.arguments import RunArguments

if TYPE_CHECKING:
    import datasets

#: What a teacher's task has to have in common with the run's; it may ask another question.
MEANING = ("problem", "labels", "range", "pair")


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
    teachers: Mapping[str, Sequence[str]], tasks: Mapping[str, Task], parts: Mapping[str, int] | None = None
) -> None:
    """Check that each teacher has the task it is to teach.

    Args:
        teachers: Folders or hub names of trained models, by task.
        tasks: The run's.
        parts: The run's `fragments`.

    Raises:
        InputError: There is no such task or model, or it answers something else; or parts of sentences that can't be.
    """
    for name in parts or {}:
        if name not in tasks:
            raise unknown("task", name, tasks, "key 'fragments'")
        if name not in teachers:
            raise InputError(f"key 'fragments', task '{name}': nobody labels them; name its teacher in 'teachers' too")
        if tasks[name].pair:
            raise InputError(f"key 'fragments', task '{name}': only tasks of one sentence have parts of sentences")
    for name, models in teachers.items():
        if name not in tasks:
            raise unknown("task", name, tasks, "key 'teachers'")
        for model in models:
            found = {values["name"]: values for values in read_config(model).tasks or []}
            if name not in found:
                raise unknown("task", name, found, f"key 'teachers', model '{model}'")
            theirs = Task.from_dict(found[name], f"model '{model}'")
            for key in MEANING:
                if getattr(theirs, key) != getattr(tasks[name], key):
                    raise InputError(
                        f"key 'teachers', model '{model}': its task '{name}' has {key} {getattr(theirs, key)!r}, the "
                        f"run's has {getattr(tasks[name], key)!r}"
                    )


def teach(
    run: RunArguments,
    tasks: Mapping[str, Task],
    rows: Mapping[str, TaskData],
    features: Mapping[str, Mapping[str, Any]],
    encode_rows: Callable[[str, datasets.Dataset], Any],
    args: TrainingArguments,
) -> tuple[dict[str, Taught], dict[str, list[str]]]:
    """What the teachers say of the training rows, and of parts of their sentences where `fragments` asks for them.

    A teacher's answers are kept beside the tokenised rows (see `qabert.data.cache`), by its weights' checksum.  Of
    several teachers' answers to a row the mean counts.  A part has no label of its own: its teachers' answer is all of
    its target, and their decision the label that it is drawn by.

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
        if count := run.fragments.get(name):
            more = fragments(data.splits["train"], count, args.seed)
            key = data.keys.get("train") and f"{data.keys['train']} {count} {args.seed}"
            said = _mean_answers(models, name, more, key, args)
            labels = decide(tasks[name], said)
            own = concatenate_datasets([own, with_labels(encode_rows(name, more), labels, own.features)])
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
    """One teacher's answers; of several processes one computes them, where the others can read them."""
    dtype = "bfloat16" if args.bf16 else "float32"

    def answered(**where: Any) -> datasets.Dataset:
        predictor = Predictor.from_pretrained(model, str(args.device), dtype=dtype)

        def answer(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
            pairs = zip(batch["text_a"], batch["text_b"], strict=True)
            return {"answer": np.concatenate(list(predictor.answers(task, pairs)))}

        title = f"{task}: answers of {model}"
        told = {"batched": True, "batch_size": CHUNK, "remove_columns": rows.column_names, "desc": title}
        return rows.map(answer, **told, **where, load_from_cache_file=False, new_fingerprint=uuid.uuid4().hex)

    key = _key(model, task, rows_key, dtype)
    kept = None if key is None else cached(key, lambda path: answered(cache_file_name=path) and None)
    found = answered(keep_in_memory=True) if kept is None else kept[0]
    return np.asarray(found.with_format("numpy")["answer"][:], dtype=np.float32)


def _key(model: str, task: str, rows: str | None, dtype: str) -> str | None:
    """What a teacher's answers follow from, as a digest; None where that can't be said."""
    path = local_folder(model) / CHECKSUMS
    if rows is None or not path.is_file():
        return None
    root = Path(qabert.__file__).parent
    made_by = ("inference.py", "data/fragments.py", "training/teachers.py")
    sources = [*sorted((root / "modeling").glob("*.py")), *(root / name for name in made_by)]
    parts = [path.read_bytes(), *(source.read_bytes() for source in sources)]
    told = [rows, task, dtype, torch.__version__, *(hashlib.sha256(part).hexdigest() for part in parts)]
    return hashlib.sha256(json.dumps(["answers", *told]).encode()).hexdigest()
