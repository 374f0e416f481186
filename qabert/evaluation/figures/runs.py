"""Figures of runs: how training went, and the scores of several runs beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qabert.evaluation.figures.style import legend_below, new_figure, note, series, short_names, styled
from qabert.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3  # panels in a line


@styled
def history_figure(histories: Mapping[str, Sequence[Mapping[str, Any]]], tasks: Mapping[str, Task]) -> Figure:
    """Losses and dev scores by epoch, one column per run, on common scales.

    Args:
        histories: `Trainer.state.log_history` by the run's name: entries with `epoch` and `<task>/loss` (training), or
            `eval_<task>/<metric>`, `eval_<task>/loss` and `eval_score`.  What a history lacks isn't drawn.
        tasks: The tasks, by name; their first metrics are shown.

    Raises:
        ValueError: There is no run or no task.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    if not histories or not tasks:
        raise ValueError("expected at least one run and one task")
    across = min(ACROSS, len(histories))
    lines = math.ceil(len(histories) / across)
    height = 1.0 + (4.0 if lines < 3 else 3.2) * lines
    figure = new_figure("Losses (lines: training, signs: dev) and dev scores by epoch", height)
    panels = figure.subplots(2 * lines, across, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    # Thick and pale, so that a task's line over it stays visible where there is only one.
    mean: dict[str, Any] = {"color": "0.7", "linewidth": 4, "linestyle": "-", "marker": "o", "markersize": 4}
    styles = {name: series(number) | {"markersize": 4.5} for number, name in enumerate(tasks)}
    for number, (run, history) in enumerate(zip(short_names(list(histories)), histories.values(), strict=True)):
        line, column = divmod(number, across)
        losses, scores = panels[2 * line][column], panels[2 * line + 1][column]
        _curve(scores, history, "eval_score", mean)
        for name, task in tasks.items():
            style = styles[name]
            _curve(losses, history, f"{name}/loss", style | {"marker": ".", "markersize": 3})
            _curve(losses, history, f"eval_{name}/loss", style | {"linestyle": "none", "markerfacecolor": "white"})
            _curve(scores, history, f"eval_{name}/{task.score}", style)
        losses.set_title(run)
        scores.set_xlabel("epoch")
        kinds = ((losses, panels[0][0], "loss"), (scores, panels[1][0], "dev score"))
        for axes, first, label in kinds:
            axes.set_axis_on()
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            if not axes.lines:
                note(axes, "nothing logged")
            if axes is not first:
                axes.sharey(first)
            if axes is not panels[0][0]:
                axes.sharex(panels[0][0])
            if column == 0:
                axes.set_ylabel(label)
    epochs = [entry["epoch"] for history in histories.values() for entry in history if "epoch" in entry]
    panels[0][0].set_xlim(0, 1.05 * max(epochs, default=1) or 1)
    handles = [*(Line2D([], [], **style) for style in styles.values()), Line2D([], [], **mean)]
    names = [f"{name} {task.score}" for name, task in zip(short_names(list(tasks)), tasks.values(), strict=True)]
    legend_below(figure, handles, [*names, "mean of the scores"])
    return figure


def _curve(axes: Axes, history: Sequence[Mapping[str, Any]], key: str, style: Mapping[str, Any]) -> None:
    points = [(entry["epoch"], entry[key]) for entry in history if key in entry and "epoch" in entry]
    points = [point for point in points if all(map(math.isfinite, point))]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


@styled
def scores_figure(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    reference: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Scores of several arms, a panel per metric: a dot per seed, a bar for their mean, a mark for the reference.

    Args:
        scores: By arm and by "task metric", one score per seed.
        reference: Scores to compare with (the paper's), by the same arms and metrics; others aren't shown.

    Raises:
        ValueError: There is no score.
    """
    known = {
        arm: {metric: [value for value in values if math.isfinite(value)] for metric, values in of_arm.items()}
        for arm, of_arm in scores.items()
    }
    metrics = list(dict.fromkeys(metric for of_arm in known.values() for metric, values in of_arm.items() if values))
    if not metrics:
        raise ValueError("there is no score to draw")
    across = min(ACROSS, len(metrics))
    lines = math.ceil(len(metrics) / across)
    figure = new_figure("Scores (bars: mean of the seeds)", 1.0 + lines * (0.7 + 0.27 * len(known)))
    panels = figure.subplots(lines, across, sharey=True, squeeze=False)
    arms = short_names(list(known), 20)
    handles: dict[str, Any] = {}
    edge = {"markeredgecolor": "black", "markeredgewidth": 0.7, "clip_on": False}
    for panel, metric, title in zip(panels.flat, metrics, short_names(metrics, 26), strict=False):
        panel.set_title(title)
        panel.grid(visible=False, axis="y")
        shown = [0.0]
        for place, (arm, of_arm) in enumerate(known.items()):
            values = of_arm.get(metric, [])
            theirs = (reference or {}).get(arm, {}).get(metric)
            if theirs is not None and math.isfinite(theirs):
                (mark,) = panel.plot(theirs, place, "D", color="#D55E00", markersize=7, **edge, zorder=4)
                handles["the paper"] = mark
                shown.append(theirs)
            if not values:
                panel.annotate("no score", (0, place), (3, 0), textcoords="offset points", va="center", color="0.4")
                continue
            mean = sum(values) / len(values)
            handles["mean"] = panel.barh(place, mean, height=0.7, color="#56B4E9", edgecolor="black", linewidth=0.6)
            places = place + 0.22 * np.linspace(-1, 1, len(values)) if len(values) > 1 else [place]
            (handles["one seed"],) = panel.plot(values, places, "o", color="white", markersize=4, **edge)
            shown += values
            end = max([0.0, *values, theirs or 0.0])
            panel.annotate(f"{mean:.3f}", (end, place), (8, 0), textcoords="offset points", va="center")
        low, high = min(shown), max(shown)
        span = high - low or 1.0
        panel.set_xlim(low - 0.05 * span if low < 0 else 0, low + 1.4 * span)
    for panel in panels.flat[len(metrics) :]:
        panel.set_axis_off()
    panels[0][0].set_yticks(range(len(arms)), arms)
    panels[0][0].set_ylim(len(arms) - 0.5, -0.5)
    order = [name for name in ("mean", "one seed", "the paper") if name in handles]
    legend_below(figure, [handles[name] for name in order], order)
    return figure
