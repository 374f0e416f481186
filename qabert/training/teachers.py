"""Teachers: trained models whose answers are learnt beside the training rows' labels (Hinton et al., 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import TrainingArguments

from qabert.data.sources import TaskData
from qabert.errors import InputError, unknown
from qabert.inference import Predictor, read_config
from qabert.processes import Processes
from qabert.tasks import Task

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

    Args:
        teachers: As in `check_teachers`.
        rows: The run's rows, by task.
        args: The Trainer's: which device, which process, whether there are progress bars.

    Returns:
        By task, probabilities or values (see `losses.activate`), `(rows,)` or `(rows, classes)`.
    """
    processes = Processes(args.process_index, args.world_size, args.local_process_index)
    quiet = bool(args.disable_tqdm) or not processes.main
    answers: dict[str, np.ndarray] = {}
    for name, models in teachers.items():
        used = rows[name].splits["train"]
        given = list(zip(used["text_a"], used["text_b"], strict=True))
        found = []
        for model in models:
            predictor = Predictor.from_pretrained(model, str(args.device), processes)
            parts = []
            with tqdm(total=len(given), desc=f"{name}: answers of {model}", unit="row", disable=quiet) as bar:
                for part in predictor.answers(name, given):
                    parts.append(part)
                    bar.update(len(part))
            found.append(np.concatenate(parts))
        answers[name] = np.mean(found, axis=0).astype(np.float32)
    return answers
