"""Parts of a reproduction's numbers: examples, prompts, labels, the triplet stage, other questions, saliency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qabert.answers import decide
from qabert.evaluation.report import paper
from qabert.evaluation.report.reproduction import Reproduction, Run
from qabert.tasks import Task

#: Rows that a table of examples shows of each model.
_EXAMPLES = 2


def spread(by_seed: Mapping[Any, float]) -> dict[str, Any]:
    """Mean and, from three seeds on, standard deviation (n − 1) of a number by seed."""
    values = list(by_seed.values())
    deviation = float(np.std(values, ddof=1)) if len(values) >= 3 else None
    return {"mean": math.fsum(values) / len(values), "spread": deviation, "by_seed": dict(by_seed)}


def triplet_measures(runs: Sequence[Run]) -> dict[str, Any]:
    """Means over seeds of the stage's measures before and after, and of the share of hinges at zero by log step."""
    stages = [run.triplet for run in runs if run.triplet]
    sides = {side: [numbers(stage.get(side)) for stage in stages] for side in ("before", "after")}
    measures = {
        key: {side: _mean([found.get(key) for found in sides[side]]) for side in sides}
        for key in dict.fromkeys(key for side in sides.values() for found in side for key in found)
    }
    steps: dict[int, list[float]] = {}
    for stage in stages:
        for entry in stage.get("history") or stage.get("hinge_zero_share") or []:
            zero = entry.get("hinge_zero", entry.get("share")) if isinstance(entry, dict) else None
            if isinstance(zero, int | float) and isinstance(entry.get("step"), int):
                steps.setdefault(entry["step"], []).append(zero)
    return {
        "loss": sorted({str(stage.get("loss")) for stage in stages} - {"None"}),
        "runs": len(stages),
        "measures": measures,
        "hinge_zero": {step: math.fsum(values) / len(values) for step, values in sorted(steps.items())},
        "frames": numbers(stages[0].get("frames")),
        "skipped": numbers(stages[0].get("skipped")),
        "seconds": _mean([stage.get("seconds") for stage in stages]),
    }


def question_changes(by_seed: Mapping[int, Run], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Per variant, task and metric: score of the own question, and the change that the variant makes, over seeds."""
    result: dict[str, Any] = {}
    asked = {seed: run.questions for seed, run in by_seed.items() if isinstance(run.questions.get("own"), dict)}
    for variant in dict.fromkeys(variant for values in asked.values() for variant in values):
        for name, task in tasks.items():
            for metric in task.metrics:
                changes = {}
                for seed, values in asked.items():
                    own, other = (numbers(values.get(key)).get(f"{name} {metric}") for key in ("own", variant))
                    if own is not None and other is not None:
                        changes[seed] = other if variant == "own" else other - own
                if changes:
                    result.setdefault(variant, {}).setdefault(name, {})[metric] = spread(changes)
    return result


def saliency_shares(by_seed: Mapping[int, Run]) -> dict[str, Any]:
    """Per task and method: each segment's share (whole and per token, means over seeds), and the weightiest words."""
    result: dict[str, Any] = {}
    files = [run.saliency for run in by_seed.values() if run.saliency]
    for name in dict.fromkeys(name for values in files for name in values):
        methods = [_part(values, name, "methods") or _part(values, name) for values in files]
        for method in dict.fromkeys(method for of_file in methods for method in of_file):
            measures: dict[str, Any] = {}
            for measure, keys in (("share", ("share", "shares")), ("per_token", ("share_per_token", "per_token"))):
                found = [
                    numbers(_part(of_file, method, keys[0]) or _part(of_file, method, keys[1])) for of_file in methods
                ]
                keys_found = dict.fromkeys(key for one in found for key in one)
                measures[measure] = {key: _mean([one.get(key) for one in found]) for key in keys_found}
            if not measures["share"]:
                continue
            words = _part(methods[0], method).get("words")
            measures["words"] = [
                str(word["word"])
                for word in (words if isinstance(words, list) else [])
                if isinstance(word, dict) and "word" in word
            ][:8]
            result.setdefault(name, {})[method] = measures
    return result


def examples(reproduction: Reproduction, name: str, shown: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that one of the shown models gets right with every seed and the others wrong with every seed.

    A value of a regression is right if it is less than a tenth of the range away, as in the figures.  Of each model's
    rows those stand here where the others are furthest off.
    """
    task, true = reproduction.tasks[name], reproduction.labels[name]
    models = [arm for arm in shown if all(name in r.tasks for r in reproduction.runs[arm].values())]
    by_model = {arm: [r.predictions[name].answers for r in reproduction.runs[arm].values()] for arm in models}
    if len(models) < 2:
        return []
    errors = {arm: np.stack([_error(task, one, true) for one in by_seed]) for arm, by_seed in by_model.items()}
    limit = (task.range[1] - task.range[0]) / 10 if task.range else None
    wrong = {
        arm: error >= limit if limit else np.stack([decide(task, one) != true for one in by_model[arm]])
        for arm, error in errors.items()
    }
    ids = next(iter(reproduction.runs[models[0]].values())).predictions[name].ids
    texts = reproduction.texts.get(name) or {}
    found = []
    for arm in models:
        others = [other for other in models if other != arm]
        alone = ~wrong[arm].any(0) & np.logical_and.reduce([wrong[other].all(0) for other in others])
        off = np.mean([errors[other].mean(0) for other in others], axis=0) - errors[arm].mean(0)
        rows = np.flatnonzero(alone)
        for row in rows[np.argsort(-off[rows], kind="stable")][:_EXAMPLES]:
            given = texts.get(ids[row]) or []
            found.append(
                {
                    "right": arm,
                    "rows_like_it": len(rows),
                    "id": ids[row],
                    "texts": [text for text in given if text is not None],
                    "label": _named(task, true[row]),
                    "answers": {
                        model: [_named(task, decide(task, one[row : row + 1])[0]) for one in by_model[model]]
                        for model in models
                    },
                }
            )
    return found


def prompts(reproduction: Reproduction) -> list[dict[str, Any]]:
    """Per task the paper's prompt and ours: that of the arm for the paper's qa model, or of any in the qa format."""
    arms = [arm for arm, model in reproduction.paper.items() if model == "qa" and arm in reproduction.runs]
    arms += [
        arm
        for arm, by_seed in reproduction.runs.items()
        if next(iter(by_seed.values())).metrics["arguments"].get("format") == "qa"
    ]
    if not arms:
        return []
    from qabert.data.prompts import qa  # imported here: only a reproduction with prompts needs it

    found = []
    for name, task in next(iter(reproduction.runs[arms[0]].values())).tasks.items():
        example = next(iter((reproduction.texts.get(name) or {}).values()), None)
        context = qa(task, str(example[0]), example[1])[0][1] if example else None
        question, theirs = paper.PROMPTS.get(name, (None, None))
        entry = {"task": name, "arm": arms[0], "question": task.question, "context": task.context, "example": context}
        found.append(entry | {"paper_question": question, "paper_example": theirs})
    return found


def label_shares(reproduction: Reproduction) -> list[dict[str, Any]]:
    """Per task and label our shares by split and, where it gives them, the paper's."""
    lines = []
    for name in reproduction.tasks:
        run = next(
            run
            for run in (one for by_seed in reproduction.runs.values() for one in by_seed.values())
            if name in run.tasks
        )
        splits = run.metrics.get("data", {}).get(name, {})
        shares = {split: splits.get(split, {}).get("label_shares", {}) for split in ("train", "dev")}
        theirs = paper.SHARES.get(name, {}) if run.tasks[name].labels else {}
        for number, label in enumerate(shares["dev"]):
            of_paper = {s: values[number] for s, values in theirs.items() if len(values) == len(shares["dev"])}
            ours = {split: by_label.get(label) for split, by_label in shares.items()}
            lines.append({"task": name, "label": label, "ours": ours, "paper": of_paper})
    return lines


def _error(task: Task, answers: np.ndarray, true: np.ndarray) -> np.ndarray:
    if task.problem == "regression":
        return np.abs(answers - true)
    if task.problem == "binary":
        return np.abs(answers - true)
    return 1 - answers[np.arange(len(true)), true]


def _named(task: Task, value: Any) -> str:
    return task.labels[int(value)] if task.labels else f"{value:.1f}"


def _part(values: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def numbers(values: Any, prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, by their keys with spaces between; anything else is left out."""
    found: dict[str, float] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{key} ")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{key}"] = float(value)
    return found


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None
