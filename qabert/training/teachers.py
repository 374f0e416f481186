"""Teachers: trained models whose answers are learnt beside the training rows' labels (Hinton et al., 2015)."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

import qabert
from qabert.checkpoints import CHECKSUMS
from qabert.data.cache import cached
from qabert.data.sources import TaskData
from qabert.errors import InputError, unknown
from qabert.inference import CHUNK, Predictor, read_config
from qabert.model_files import local_folder
from qabert.tasks import Task

if TYPE_CHECKING:
    import datasets

#: What a teacher's task has to have in common with the run's; it may ask another question.
MEANING = ("problem", "labels", "range", "pair")


class Taught(Dataset):
    """Training features with a teacher's answer to each row.

    Args:
        features: Rows, or several forms of all rows, one after the other.
        answers: A teacher's answers to the rows, `(rows,)` or `(rows, classes)`.
    """

    def __init__(self, features: Any, answers: np.ndarray) -> None:
        self.features, self.answers = features, answers

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """A row's features and its `teacher`."""
        return {**self.features[row], "teacher": self.answers[row % len(self.answers)]}


def check_teachers(teachers: Mapping[str, Sequence[str]], tasks: Mapping[str, Task]) -> None:
    """Check that each teacher has the task it is to teach.

    Args:
        teachers: Folders or hub names of trained models, by task.
        tasks: The run's.

    Raises:
        InputError: There is no such task or model, or it answers something else.
    """
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
    teachers: Mapping[str, Sequence[str]], rows: Mapping[str, TaskData], args: TrainingArguments
) -> dict[str, np.ndarray]:
    """The teachers' answers to the training rows: of several, their mean.

    A teacher's answers are kept beside the tokenised rows (see `qabert.data.cache`), by its weights' checksum.

    Args:
        teachers: As in `check_teachers`.
        rows: The run's rows, by task.
        args: The Trainer's: which device, which process, what to compute in, whether there are progress bars.

    Returns:
        By task, probabilities or values (see `losses.activate`), `(rows,)` or `(rows, classes)`.
    """
    return {
        name: np.mean([_answers(model, name, rows[name], args) for model in models], axis=0).astype(np.float32)
        for name, models in teachers.items()
    }


def _answers(model: str, task: str, rows: TaskData, args: TrainingArguments) -> np.ndarray:
    """One teacher's answers; of several processes one computes them, where the others can read them."""
    dtype = "bfloat16" if args.bf16 else "float32"
    used = rows.splits["train"]

    def answered(to: Any, **where: Any) -> datasets.Dataset:
        predictor = Predictor.from_pretrained(model, str(args.device), dtype=dtype)

        def answer(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
            pairs = zip(batch["text_a"], batch["text_b"], strict=True)
            return {"answer": np.concatenate(list(predictor.answers(task, pairs)))}

        title = f"{task}: answers of {model}"
        told = {"batched": True, "batch_size": CHUNK, "remove_columns": to.column_names, "desc": title}
        return to.map(answer, **told, **where, load_from_cache_file=False, new_fingerprint=uuid.uuid4().hex)

    key = _key(model, task, rows.keys.get("train"), dtype)
    if key is not None:
        found = cached(key, lambda path: answered(used, cache_file_name=path) and None)
        if found is not None:
            return np.asarray(found[0].with_format("numpy")["answer"][:], dtype=np.float32)
    return np.asarray(answered(used, keep_in_memory=True).with_format("numpy")["answer"][:], dtype=np.float32)


def _key(model: str, task: str, rows: str | None, dtype: str) -> str | None:
    """What a teacher's answers follow from, as a digest; None where that can't be said."""
    path = local_folder(model) / CHECKSUMS
    if rows is None or not path.is_file():
        return None
    root = Path(qabert.__file__).parent
    sources = [*sorted((root / "modeling").glob("*.py")), root / "inference.py", Path(__file__)]
    parts = [path.read_bytes(), *(source.read_bytes() for source in sources)]
    told = [rows, task, dtype, torch.__version__, *(hashlib.sha256(part).hexdigest() for part in parts)]
    return hashlib.sha256(json.dumps(["answers", *told]).encode()).hexdigest()
