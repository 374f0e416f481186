"""What a trained model answers when it is asked something else: is it the question's meaning that it uses?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from qabert.evaluation.scores import answer_rows, score_answers
from qabert.inference import Predictor


def ask(
    predictor: Predictor,
    rows: Mapping[str, Any],
    questions: Mapping[str, Mapping[str, str]],
    most: int | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Score a model with its own questions and with others.

    Args:
        predictor: A model in the `qa` format.
        rows: Labelled rows by task.
        questions: By variant and task, what to ask instead; a task that a variant leaves out keeps its own question.
        most: Rows a task, chosen at random but the same each time; None means all.

    Returns:
        By variant (`own` first), task and metric: the score, and under `rows` how many rows were asked.
    """
    tasks = dict(predictor.tasks)
    result: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for variant, asked in {"own": {}, **questions}.items():
            for name, task in tasks.items():
                chosen = sample(rows[name], most)
                predictor.tasks[name] = dataclasses.replace(task, question=asked.get(name, task.question))
                scores = score_answers(task, answer_rows(predictor, name, chosen), chosen["label"])
                result.setdefault(variant, {})[name] = {**scores, "rows": len(chosen)}
    finally:
        predictor.tasks.update(tasks)
    return result


def sample(rows: Any, most: int | None) -> Any:
    """At most so many rows, in their order, chosen at random but the same each time."""
    if most is None or len(rows) <= most:
        return rows
    return rows.select(np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False)))
