"""Figures of one model's predictions (paper, figures 2 to 5)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qabert.evaluation.calibration import check_classes
from qabert.evaluation.figures.comparison import calibration_figure, model_columns
from qabert.evaluation.figures.runs import history_figure
from qabert.evaluation.figures.style import (
    cells,
    count_text,
    legend_below,
    new_figure,
    rows_text,
    save_figure,
    series,
    short_names,
    shorten,
    styled,
)
from qabert.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = 9.3  # inches, its height
MAX_LABELS = 30  # labels that one page shows; the rarest ones beyond share a line
MAX_COUNTS = 10  # labels up to which a confusion matrix has room for numbers


@styled
def label_shares_figure(task: Task, labels: ArrayLike, predictions: Mapping[str, ArrayLike]) -> Figure:
    """Share of each label among the predictions of one or more models, and among the true labels (paper, figure 2).

    Args:
        task: The task; a regression's values count for the nearest fifth of its range, as in the data summary.
        labels: True labels, shape `(rows,)`.
        predictions: Predictions (`answers.decide`) by the model's name, each `(rows,)`.

    Raises:
        ValueError: Predictions that don't fit the task or the labels.
    """
    from matplotlib.ticker import PercentFormatter

    true, predicted = model_columns(task, labels, predictions)
    names, group = _label_groups(task, true)
    shares = {
        name: np.bincount(group(values), minlength=len(names)) / len(values) for name, values in predicted.items()
    }
    step = max(0.27, 0.11 * (len(predicted) + 1))
    height = min(PAGE, 1.5 + step * len(names))
    figure = new_figure(f"{shorten(task.name)}: labels predicted and true ({rows_text(true)})", height)
    axes = figure.add_subplot()
    places = np.arange(len(names))
    true_shares = np.bincount(group(true), minlength=len(names)) / len(true)
    handles: list[Any] = [axes.barh(places, true_shares, height=0.86, color="0.86", edgecolor="0.5", linewidth=0.6)]
    # Markers stand one below the other, so that none hides another.
    for number, values in enumerate(shares.values()):
        offset = ((number + 1) / (len(shares) + 1) - 0.5) * 0.86
        style = series(number) | {"linestyle": "none"}
        handles += axes.plot(values, places + offset, **style, markeredgecolor="black", markeredgewidth=0.5)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.06 * max(true_shares.max(), *(values.max() for values in shares.values())))
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("share of the rows")
    axes.set_ylabel("value (nearest fifth)" if task.range else "label")
    legend_below(figure, handles, ["true", *shares])
    return figure


@styled
def confusion_figure(task: Task, labels: ArrayLike, predictions: ArrayLike) -> Figure:
    """Confusion matrix of one model: rows by true and predicted label, and their share of the true label's rows.

    Over 10 labels there is no room for the numbers; then each true label has, at the side, its rows and the share of
    them that is right.

    Args:
        task: A classification or binary task.
        labels: True class indices, shape `(rows,)`.
        predictions: Predicted class indices, shape `(rows,)`.

    Raises:
        ValueError: The task is a regression, or predictions don't fit the task or the labels.
    """
    check_classes(task)
    true, predicted = _one_model(task, labels, predictions)
    names, group = _label_groups(task, true)
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (group(true), group(predicted)), 1)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    # Not the diagonal, where rarer labels share a field.
    hits = np.bincount(group(true), true == predicted, len(names))
    right = f"{np.mean(true == predicted):.1%} right"
    written = len(names) <= MAX_COUNTS
    across = [textwrap.fill(name, 58 // len(names), break_long_words=False) for name in names] if written else names
    upright = max(cells(line) for name in across for line in name.split("\n")) > 58 // len(names)
    across = names if upright else across
    height = (1.6 + 0.45 * max(2, len(names)) if written else 1.2 + 0.2 * len(names)) + (1.0 if upright else 0)
    figure = new_figure(f"{shorten(task.name)}: true and predicted label ({rows_text(true)}, {right})", height)
    axes = figure.add_subplot()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(names)), across, rotation=90 if upright else 0)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("true label")
    if not written:
        axes.text(len(names) - 0.3, -0.95, "right", va="center")
    for row in range(len(names)):
        if not written:
            text = f"{hits[row] / totals[row]:.0%} of {count_text(totals[row])}" if totals[row] else "no rows"
            axes.text(len(names) - 0.3, row, text, va="center")
            continue
        for column in range(len(names)):
            text = f"{count_text(counts[row, column])}\n{shares[row, column]:.0%}" if totals[row] else "0"
            light = shares[row, column] < 0.55
            axes.text(column, row, text, ha="center", va="center", color="white" if light else "black")
    side = "right" if written else "top"
    bar = figure.colorbar(image, ax=axes, format=lambda share, _: f"{share:.0%}", aspect=30, pad=0.02, location=side)
    bar.set_label("share of the true label")
    return figure


@styled
def regression_figure(task: Task, labels: ArrayLike, predictions: ArrayLike) -> Figure:
    """One model's predicted against true values, and its errors by true value (paper, figures 3 to 5).

    Args:
        task: A regression.
        labels: True values in the task's unit, shape `(rows,)`.
        predictions: Predicted values, shape `(rows,)`.

    Raises:
        ValueError: The task is no regression, or predictions don't fit the labels.
    """
    if task.range is None:
        raise ValueError(f"task '{task.name}' is no regression")
    from qabert.evaluation.metrics import pearson

    true, predicted = _one_model(task, labels, predictions)
    names, group = _label_groups(task, true)
    title = (
        f"{shorten(task.name)}: true and predicted value ({rows_text(true)}, Pearson {pearson(predicted, true):.3f})"
    )
    figure = new_figure(title, 3.7)
    left, middle = figure.subplots(1, 2)
    low, high = task.range
    # As pixels: twenty thousand points would make the SVG megabytes.
    alpha = min(0.7, max(0.06, 350 / len(true)))
    left.plot(true, predicted, "o", color="#0072B2", markersize=3.5, markeredgewidth=0, alpha=alpha, rasterized=True)
    left.plot([low, high], [low, high], "--", color="black", linewidth=1)
    left.set(xlabel="true value", ylabel="predicted value (dashed: equal)")
    bins = group(true)
    used = np.unique(bins)
    middle.axhline(0, linestyle="--", color="black", linewidth=1)
    middle.boxplot(
        [(predicted - true)[bins == number] for number in used], positions=used, widths=0.6, patch_artist=True,
        manage_ticks=False, boxprops={"facecolor": "#56B4E9", "linewidth": 0.8},
        medianprops={"color": "black", "linewidth": 2},
        flierprops={"marker": ".", "markersize": 3, "markerfacecolor": "0.3", "markeredgewidth": 0, "rasterized": True},
    )  # fmt: skip
    sizes = map(count_text, np.bincount(bins, minlength=len(names)))
    upright = max(map(cells, names)) > 4
    texts = [f"{name} ({size})" if upright else f"{name}\n{size}" for name, size in zip(names, sizes, strict=True)]
    middle.set_xticks(range(len(names)), texts, rotation=90 if upright else 0)
    middle.set_xlim(-0.6, len(names) - 0.4)
    middle.set(xlabel="true value (nearest fifth), and its rows", ylabel="error: predicted − true")
    return figure


def model_figures(
    tasks: Mapping[str, Task],
    labels: Mapping[str, ArrayLike],
    answers: Mapping[str, ArrayLike],
    folder: Path,
    history: list[dict[str, Any]] | None = None,
) -> list[Path]:
    """Draw and write all figures of one model.

    Args:
        tasks: The tasks, by name.
        labels: True labels by task, each `(rows,)`.
        answers: Answers by task, as `Predictor.answers` gives them.
        folder: Where the files go: `<task>-labels`, `-confusion` and `-calibration` or `-regression`, and `history`.
        history: The run's `log_history`, if it is at hand.

    Returns:
        The files written.
    """
    from qabert.answers import decide

    paths: list[Path] = []
    for name, task in tasks.items():
        given = np.asarray(answers[name])
        predicted = decide(task, given)
        figures = {"labels": label_shares_figure(task, labels[name], {"predicted": predicted})}
        if task.problem == "regression":
            figures["regression"] = regression_figure(task, labels[name], predicted)
        else:
            figures["confusion"] = confusion_figure(task, labels[name], predicted)
            figures["calibration"] = calibration_figure(task, labels[name], {"model": given})
        for kind, figure in figures.items():
            paths += save_figure(figure, folder, f"{name}-{kind}")
    if history:
        paths += save_figure(history_figure({"run": history}, tasks), folder, "history")
    return paths


def _label_groups(task: Task, true: NDArray) -> tuple[list[str], Callable[[NDArray], NDArray[np.int64]]]:
    """Names of the lines that stand for labels, and a function from labels to the numbers of their lines.

    Over `MAX_LABELS`, the rarest of the true labels share the last line.
    """
    from qabert.data.sampling import strata

    if task.range is not None:
        low, high = task.range
        names = [f"{low + step * (high - low) / 5:g}" for step in range(6)]
        return names, lambda values: strata(np.clip(values, low, high), task.range)
    count = len(task.labels)
    if count <= MAX_LABELS:
        return short_names(task.labels), lambda values: values
    frequent = np.argsort(-np.bincount(true, minlength=count), kind="stable")[: MAX_LABELS - 1]
    own = np.sort(frequent)
    line = np.full(count, len(own))
    line[own] = np.arange(len(own))
    names = [*short_names([task.labels[number] for number in own]), f"{count - len(own)} rarer labels"]
    return names, lambda values: line[values]


def _one_model(task: Task, labels: ArrayLike, predictions: ArrayLike) -> tuple[NDArray, NDArray]:
    true, predicted = model_columns(task, labels, {"model": predictions})
    return true, predicted["model"]
