"""How far probabilities can be trusted, and what one model gets right and another wrong: numbers and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qabert.evaluation.calibration import BINS, calibration_bins, calibration_error
from qabert.evaluation.figures.style import (
    HATCHES,
    cells,
    count_text,
    legend_below,
    new_figure,
    rows_text,
    series,
    short_names,
    shorten,
    styled,
)
from qabert.evaluation.metrics import task_columns
from qabert.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 10  # rows under which a bin's share says little


@styled
def calibration_figure(task: Task, labels: ArrayLike, answers: Mapping[str, ArrayLike]) -> Figure:
    """Reliability diagram of one or more models (see `calibration_bins`), with the rows of each bin below it.

    Args:
        task: A classification or binary task.
        labels: True class indices, shape `(rows,)`.
        answers: Probabilities by the model's name, each `(rows, classes)` or, binary, `(rows,)`.

    Raises:
        ValueError: The task is a regression, or answers don't fit the task or the labels.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    check_models(task, answers)
    figure = new_figure(f"{shorten(task.name)}: how far the probabilities can be trusted ({rows_text(labels)})", 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    names, handles = [], []
    middles = (np.arange(BINS) + 0.5) / BINS
    any_few = False
    for number, (name, values) in enumerate(zip(short_names(list(answers)), answers.values(), strict=True)):
        mean, came_true, counts = calibration_bins(task, labels, values)
        style = series(number)
        known, few = counts > 0, (counts > 0) & (counts < FEW)
        handles += upper.plot(mean[known], came_true[known], **style, clip_on=False)
        if few.any():
            any_few = True
            hollow = style | {"linestyle": "none", "markerfacecolor": "white", "clip_on": False}
            upper.plot(mean[few], came_true[few], **hollow, zorder=3)
        width = 0.8 / BINS / len(answers)
        place = middles + (number - (len(answers) - 1) / 2) * width
        look = {
            "color": style["color"],
            "edgecolor": "black",
            "linewidth": 0.4,
            "hatch": HATCHES[number % len(HATCHES)],
        }
        lower.bar(place, counts, width, **look)
        # The number first: after a name that is written from right to left it would stand in its middle.
        names.append(f"ECE {calibration_error(mean, came_true, counts):.3f}: {name}")
    second = shorten(task.labels[1])
    upper.set(xlim=(0, 1), ylim=(0, 1))
    if task.problem == "binary":
        upper.set_ylabel(f"rows that are “{second}”")
        lower.set_xlabel(f"probability of “{second}”")
    else:
        upper.set_ylabel("rows where it is right")
        lower.set_xlabel("probability of the likeliest label")
    if any_few:
        upper.text(0.01, 0.98, f"hollow: under {FEW} rows", transform=upper.transAxes, va="top")
    lower.set_ylabel("rows")
    lower.set_xticks(np.linspace(0, 1, BINS + 1))
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axis in (lower.xaxis, upper.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_below(figure, handles, names)
    return figure


def only_right(
    task: Task, labels: ArrayLike, predictions: Mapping[str, ArrayLike]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What each model gets right that others get wrong.

    A value of a regression is right if it is less than a tenth of the range away from the true one.

    Returns:
        Rows that only this model gets right `(models,)`, and rows that the first index's model gets right and the
        second's wrong `(models, models)`.
    """
    true, predicted = model_columns(task, labels, predictions)
    values = np.stack(list(predicted.values()))
    within = (task.range[1] - task.range[0]) / 10 if task.range else 0.5
    right = np.abs(values - true) < within
    alone = (right & (right.sum(axis=0) == 1)).sum(axis=1)
    pairs = right.astype(np.int64) @ (~right).astype(np.int64).T
    return alone, pairs


@styled
def only_right_figure(task: Task, labels: ArrayLike, predictions: Mapping[str, ArrayLike]) -> Figure:
    """What each model gets right that the others get wrong (see `only_right`).

    On the left the rows that it alone gets right, on the right model by model.

    Args:
        task: The task.
        labels: True labels, shape `(rows,)`.
        predictions: Predictions (`answers.decide`) by the model's name, each `(rows,)`.

    Raises:
        ValueError: Predictions that don't fit the task or the labels.
    """
    from matplotlib.ticker import MaxNLocator

    alone, pairs = only_right(task, labels, predictions)
    names = short_names(list(predictions), 20)
    rule = f"; right: off by less than {(task.range[1] - task.range[0]) / 10:g}" if task.range else ""
    title = f"{shorten(task.name)}: right by one model, wrong by another ({rows_text(labels)}{rule})"
    upright = max(map(cells, names)) > 42 // len(names)
    figure = new_figure(title, 1.5 + max(0.36 * len(names), 0.8) + (1.0 if upright else 0))
    left, matrix = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2))
    places = np.arange(len(names))
    left.barh(places, alone, height=0.7, color="#56B4E9", edgecolor="black", linewidth=0.6)
    for place, count in zip(places, alone, strict=True):
        left.annotate(f"{count:,}", (count, place), (3, 0), textcoords="offset points", va="center")
    left.set_xlim(0, max(1, alone.max()) * 1.35)
    left.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    left.grid(visible=False, axis="y")
    left.set_yticks(places, names)
    left.set_xlabel("only it is right: rows")
    colours = np.ma.masked_array(pairs, np.eye(len(names), dtype=bool))
    matrix.set_facecolor("0.8")
    matrix.imshow(colours, cmap="cividis", aspect="auto", vmin=0, vmax=max(1, pairs.max()))
    matrix.set_xticks(places, names, rotation=90 if upright else 0)
    matrix.set_xlabel("… and this one is wrong: rows")
    matrix.tick_params(axis="y", length=0)
    matrix.grid(visible=False)
    for (row, column), count in np.ndenumerate(pairs):
        light = count < 0.55 * max(1, pairs.max())
        text = "–" if row == column else count_text(int(count))
        matrix.text(column, row, text, ha="center", va="center", color="white" if light and row != column else "black")
    left.set_ylabel("this one is right …")
    return figure


def model_columns(
    task: Task, labels: ArrayLike, predictions: Mapping[str, ArrayLike]
) -> tuple[NDArray, dict[str, NDArray]]:
    """Checked true labels, and predictions by short names of the models."""
    check_models(task, predictions)
    columns = [task_columns(task, np.asarray(values), np.asarray(labels)) for values in predictions.values()]
    names = short_names(list(predictions))
    return columns[0][1], {name: predicted for name, (predicted, _) in zip(names, columns, strict=True)}


def check_models(task: Task, models: Mapping[str, ArrayLike]) -> None:
    """Raise a `ValueError` where there is no model."""
    if not models:
        raise ValueError(f"task '{task.name}': there are no predictions")
