"""Figures of a hyperparameter search (paper, figure 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qabert.evaluation.figures.style import COLOURS, legend_below, new_figure, note, short_names, shorten, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3  # panels in a line
_EDGE: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.5}


@styled
def search_history_figure(trials: Sequence[Mapping[str, Any]]) -> Figure:
    """Scores of the trials in their order, and the best one so far.

    Args:
        trials: `trial` (its number), `score` (None where it has none) and `state` (complete, pruned, failed).
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure("Score of each trial, and the best so far", 3.2)
    axes = figure.add_subplot()
    handles, names = [], []
    done = [(trial["trial"], trial["score"]) for trial in trials if trial["state"] == "complete"]
    cut = [(trial["trial"], trial["score"]) for trial in trials if trial["state"] == "pruned" and _known(trial)]
    if done:
        numbers, scores = zip(*done, strict=True)
        handles += axes.step(numbers, np.maximum.accumulate(scores), where="post", color="0.6")
        handles += axes.plot(numbers, scores, "o", color=COLOURS[0], **_EDGE)
        names += ["best so far", "to its end"]
    if cut:
        handles += axes.plot(*zip(*cut, strict=True), "x", color=COLOURS[1])
        names += ["pruned: last score"]
    if handles:
        legend_below(figure, handles, names)
    else:
        note(axes, "no trial has a score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel="eval_score")
    return figure


@styled
def search_space_figure(trials: Sequence[Mapping[str, Any]], space: Mapping[str, Any]) -> Figure:
    """Score over each key's values: a panel per key.

    Args:
        trials: As for `search_history_figure`, with `values` by key.
        space: By key, its list of choices or its range; with `log`, the scale is logarithmic.
    """
    across = min(ACROSS, len(space))
    lines = math.ceil(len(space) / across)
    figure = new_figure("Score by the value of each key (crosses: pruned)", 0.7 + 2.4 * lines)
    panels = figure.subplots(lines, across, sharey=True, squeeze=False)
    for axes in panels.flat[len(space) :]:
        axes.set_axis_off()
    known = [trial for trial in trials if _known(trial)]
    for number, (axes, (key, given)) in enumerate(zip(panels.flat, space.items(), strict=False)):
        places = _places(axes, given)
        for sign, colour, state in (("o", COLOURS[0], "complete"), ("x", COLOURS[1], "pruned")):
            points = [(places(trial["values"][key]), trial["score"]) for trial in known if trial["state"] == state]
            if points:
                edge = _EDGE if sign == "o" else {}
                axes.plot(*zip(*points, strict=True), sign, color=colour, alpha=0.8, **edge)
        if not known:
            note(axes, "no score")
        axes.set_xlabel(shorten(key, 30))
        if number % across == 0:
            axes.set_ylabel("eval_score")
    return figure


@styled
def importance_figure(importances: Mapping[str, float]) -> Figure:
    """How much of the scores' variance each key explains.

    Args:
        importances: Shares by key (`optuna.importance.get_param_importances`); empty where there are too few trials.
    """
    figure = new_figure("Share of the scores' variance that each key explains (fANOVA)", 1.1 + 0.3 * len(importances))
    axes = figure.add_subplot()
    if not importances:
        note(axes, "too few trials")
    ordered = sorted(importances.items(), key=lambda item: item[1])
    axes.barh(short_names([key for key, _ in ordered], 30), [share for _, share in ordered], color=COLOURS[5],
              edgecolor="black", linewidth=0.6)  # fmt: skip
    for place, (_, share) in enumerate(ordered):
        axes.annotate(f"{share:.2f}", (share, place), (4, 0), textcoords="offset points", va="center")
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.1)
    return figure


@styled
def parallel_figure(trials: Sequence[Mapping[str, Any]], space: Mapping[str, Any]) -> Figure:
    """Each trial as a line over its values, the better the darker (paper, figure 6).

    Args:
        trials: As for `search_space_figure`.
        space: As for `search_space_figure`; choices stand in their order, ranges from low to high.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = new_figure("Trials by their values (lines) and scores (colour)", 3.6)
    axes = figure.add_subplot()
    known = sorted((trial for trial in trials if _known(trial)), key=lambda trial: trial["score"])
    if not known:
        note(axes, "no trial has a score")
    else:
        scores = [trial["score"] for trial in known]
        norm, colours = Normalize(scores[0], max(scores[-1], scores[0] + 1e-9)), colormaps["viridis_r"]
        for trial in known:
            heights = [_height(given, trial["values"][key]) for key, given in space.items()]
            line = "-" if trial["state"] == "complete" else ":"
            axes.plot(heights, line, marker="o", markersize=3, color=colours(norm(trial["score"])))
        figure.colorbar(ScalarMappable(norm, colours), ax=axes, label="eval_score", pad=0.02)
    axes.set_xticks(range(len(space)), short_names(list(space), 16), rotation=20)
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.12)
    for place, given in enumerate(space.values()):
        axes.axvline(place, color="0.6", linewidth=0.8, zorder=0)
        for value in _ends(given):
            axes.annotate(shorten(_text(value), 12), (place, _height(given, value)), (4, 3), textcoords="offset points",
                          fontsize=7.5)  # fmt: skip
    axes.grid(visible=False)
    return figure


def _known(trial: Mapping[str, Any]) -> bool:
    return trial["score"] is not None and math.isfinite(trial["score"])


def _places(axes: Axes, given: Any) -> Any:
    """Prepares a panel's axis; returns a function from a value to its place on it."""
    if isinstance(given, Mapping):
        if given.get("log"):
            from matplotlib.ticker import FuncFormatter, NullFormatter

            axes.set_xscale("log")  # whose own labels are mathematics, which the style leaves as text
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        return lambda value: value
    upright = max(len(_text(value)) for value in given) > 5 and len(given) > 2
    axes.set_xticks(
        range(len(given)), short_names([_text(value) for value in given], 14), rotation=45 if upright else 0
    )
    axes.set_xlim(-0.5, len(given) - 0.5)
    return lambda value: list(given).index(value)


def _ends(given: Any) -> list[Any]:
    return [given["low"], given["high"]] if isinstance(given, Mapping) else list(given)


def _height(given: Any, value: Any) -> float:
    """A value's place between 0 and 1."""
    if not isinstance(given, Mapping):
        return list(given).index(value) / max(len(given) - 1, 1)
    low, high, own = given["low"], given["high"], value
    if given.get("log"):
        low, high, own = math.log(low), math.log(high), math.log(value)
    return (own - low) / (high - low)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
