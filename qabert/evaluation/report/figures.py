"""The figures of a reproduction's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qabert.answers import decide
from qabert.evaluation import figures
from qabert.evaluation.report.documents import Figure
from qabert.evaluation.report.reproduction import Reproduction


def draw_figures(reproduction: Reproduction, results: Mapping[str, Any], folder: Path) -> list[Figure]:
    """Draw all figures into `folder`; those of single models show the models of `results["models_shown"]`.

    Raises:
        InputError: matplotlib isn't installed.
    """
    drawn = []
    for name, caption, figure in _figures(reproduction, results):
        places = figures.save_figure(figure, folder, name)
        by_kind = {place.suffix: place for place in places}
        drawn.append(Figure(caption, by_kind[".png"], by_kind[".svg"]))
    return drawn


def _figures(reproduction: Reproduction, results: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Name, caption and figure, one after the other."""
    scores = {
        arm: {
            f"{task} {metric}": list(values["by_seed"].values())
            for task, by_metric in of_arm.items()
            for metric, values in by_metric.items()
        }
        for arm, of_arm in results["scores"].items()
    }
    reference = {
        arm: {
            f"{task} {metric}": value
            for task, by_metric in results["paper"].get(facts["paper"], {}).items()
            for metric, value in by_metric.items()
        }
        for arm, facts in results["arms"].items()
    }
    known = "; the mark is what the paper reports" if any(reference.values()) else ""
    yield (
        "scores",
        f"Dev scores of every arm: a dot for each seed, the bar their mean{known}.",
        figures.scores_figure(scores, reference),
    )
    runs = {arm: next(iter(reproduction.runs[arm].values())) for arm in results["models_shown"]}
    seed = {arm: f"{arm} (seed {run.seed})" for arm, run in runs.items()}
    histories = {seed[arm]: run.metrics["history"] for arm, run in runs.items() if run.metrics.get("history")}
    if histories:
        yield (
            "history",
            "Training losses by task, and dev scores by epoch.",
            figures.history_figure(histories, reproduction.tasks),
        )
    for name, task in reproduction.tasks.items():
        labels = reproduction.labels[name]
        answers = {arm: run.predictions[name].answers for arm, run in runs.items() if name in run.tasks}
        predictions = {arm: decide(task, given) for arm, given in answers.items()}
        if not answers:
            continue
        seeds = {runs[arm].seed for arm in answers}
        first = f"seed {seeds.pop()}" if len(seeds) == 1 else ", ".join(seed[arm] for arm in answers)
        yield (
            f"{name}-labels",
            f"{name}: share of each label among the predictions, beside the true shares; {first}.",
            figures.label_shares_figure(task, labels, predictions),
        )
        for arm, predicted in predictions.items():
            if task.problem == "regression":
                caption = f"{name}, {seed[arm]}: predicted against true values, and the errors by true value."
                yield f"{name}-{arm}-regression", caption, figures.regression_figure(task, labels, predicted)
            else:
                caption = f"{name}, {seed[arm]}: rows by true and predicted label."
                yield f"{name}-{arm}-confusion", caption, figures.confusion_figure(task, labels, predicted)
        if task.problem != "regression":
            yield (
                f"{name}-calibration",
                f"{name}: how often the answers came true, by how sure the model was; {first}.",
                figures.calibration_figure(task, labels, answers),
            )
        if len(predictions) > 1:
            right = np.asarray(labels)
            yield (
                f"{name}-only-right",
                f"{name}: what each model gets right that the others get wrong; {first}.",
                figures.only_right_figure(task, right, predictions),
            )
