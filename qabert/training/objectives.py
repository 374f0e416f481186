"""What a step minimises beside the tasks' own losses: softer labels, a teacher's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from qabert.tasks import Task


@dataclass(frozen=True)
class Objective:
    """How a step's loss is made of a model's logits and its rows' labels.

    Args:
        label_smoothing: Share of a label's probability that is spread evenly over all labels (Szegedy et al., 2016).
        ordinal_smoothing: Share that a label of an ordered task gives to the labels next to it; a label at an end gives
            half as much, to its one neighbour.
        loss_weights: Factor of a task's loss; 1 where not named.
    """

    label_smoothing: float = 0.0
    ordinal_smoothing: float = 0.0
    loss_weights: Mapping[str, float] = field(default_factory=dict)

    def targets(
        self,
        task: Task,
        labels: torch.Tensor,
        teacher: torch.Tensor | None = None,
        teacher_weight: torch.Tensor | float = 0.5,
    ) -> torch.Tensor:
        """What the task's loss compares the logits with.

        Args:
            task: The rows' task.
            labels: `(batch,)`, as a model takes them.
            teacher: A teacher's answers (see `losses.activate`), `(batch,)` or `(batch, classes)` (Hinton et al., 2015,
                at temperature 1).
            teacher_weight: Share of each row's target that is the teacher's answer, `(batch,)`; the rest is its label.

        Returns:
            `labels` as they are where nothing changes them, else probabilities or values, shaped as `teacher`.
        """
        ordinal = self.ordinal_smoothing if task.ordered else 0.0
        if task.problem == "classification" and (self.label_smoothing or ordinal or teacher is not None):
            classes = len(task.labels)
            rows = torch.eye(classes, device=labels.device)
            near = (torch.diag(torch.ones(classes - 1), 1) + torch.diag(torch.ones(classes - 1), -1)).to(rows)
            rows = rows + ordinal / 2 * (near - torch.diag(near.sum(-1)))
            targets = (1 - self.label_smoothing) * rows[labels.long()] + self.label_smoothing / classes
        elif task.problem == "binary" and self.label_smoothing:
            targets = labels.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        else:
            targets = labels
        if teacher is None:
            return targets
        share = torch.as_tensor(teacher_weight, device=labels.device)
        share = share.unsqueeze(-1) if teacher.ndim == 2 and share.ndim else share
        return (1 - share) * targets.float() + share * teacher.float()

    def __call__(self, model: Any, inputs: Mapping[str, Any], task: Task) -> tuple[torch.Tensor, Any]:
        """Loss and outputs of a batch.

        Args:
            model: A `QABertModel`, or what a launcher wrapped it in.
            inputs: A batch as `DataCollator` makes it, with labels.
            task: The rows' task.

        Returns:
            The mean loss over the rows, a scalar; the model's outputs.
        """
        inputs = dict(inputs)
        taught = {key: inputs.pop(key) for key in ("teacher", "teacher_weight") if key in inputs}
        inputs["labels"] = self.targets(task, inputs["labels"], **taught)
        outputs = model(**inputs)
        return outputs.loss * self.loss_weights.get(task.name, 1.0), outputs
