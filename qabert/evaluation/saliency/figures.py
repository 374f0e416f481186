"""Explanations as a figure: a bar for each word."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qabert.evaluation.figures.style import COLOURS, PNG_DPI, WIDTH, legend_below, new_figure, shorten, styled
from qabert.evaluation.saliency.explanations import Explanation
from qabert.evaluation.saliency.pages import TITLES
from qabert.evaluation.saliency.tokens import SEGMENTS
from qabert.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_WORDS = 45  # that a page has room for
HATCHES = ("////", "....", "", "xxxx")  # tell segments apart in grey; sentence_a is plain


@styled
def explanation_figure(explanations: Explanation | Sequence[Explanation]) -> Figure:
    """A block of bars for each explanation, with a column for each method and a line for each word, in the row's order.

    A row of more than 45 words shows the strongest 45 of them.  Special tokens have no bar, beside which those of the
    words would vanish: what they take of the rollout stands under its axis.

    Raises:
        InputError: matplotlib isn't installed.
        ValueError: No explanations, or their methods differ.
    """
    from matplotlib.patches import Patch

    several = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not several or len({tuple(one.scores) for one in several}) != 1:
        raise ValueError("expected explanations by the same methods")
    methods = list(several[0].scores)
    shown = [_strongest(one) for one in several]
    lines = [len(chosen) + 4 for chosen in shown]  # three for the title and the axis
    figure = new_figure("Why this answer?", 0.6 + 0.17 * sum(lines))
    grid = figure.subplots(len(several), len(methods), squeeze=False, height_ratios=lines)
    for row, one, chosen in zip(grid, several, shown, strict=True):
        for number, (axes, method) in enumerate(zip(row, methods, strict=True)):
            _bars(axes, one, chosen, method, named=number == 0)
        words = sum(word.segment != "special" for word in one.words)
        cut = f" ({len(chosen)} strongest of {words} words)" if len(chosen) < words else ""
        said = one.answer["label"] if "label" in one.answer else f"{one.answer['value']:.2f}"
        row[0].set_title(f"{one.task}: {shorten(said, 40)}{cut}\n{TITLES[methods[0]]}", loc="left")
    used = [name for name in SEGMENTS[:-1] if any(name in one.segments for one in several)]
    legend_below(figure, [Patch(**_style(name)) for name in used], used)
    return figure


@styled
def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the file is whole or absent."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI)
    with whole_file(path, binary=True) as file:
        file.write(buffer.getvalue())


def _strongest(explanation: Explanation) -> list[int]:
    plain = np.array([word.segment != "special" for word in explanation.words])
    strength = np.zeros(len(plain))
    for method in explanation.scores:
        values = np.abs(explanation.word_scores(method)) * plain
        strength = np.maximum(strength, values / (values.max() or 1.0))
    order = np.argsort(np.where(plain, -strength, 1), kind="stable")
    return sorted(order[: min(MAX_WORDS, plain.sum())].tolist())


def _bars(axes: Axes, explanation: Explanation, chosen: list[int], method: str, named: bool) -> None:
    words = [explanation.words[number] for number in chosen]
    scores = explanation.word_scores(method)[chosen]
    places = np.arange(len(words))
    bars = axes.barh(places, scores, height=0.75)
    for bar, word in zip(bars, words, strict=True):
        bar.set(**_style(word.segment))
    percent = method == "rollout"
    for place, score in zip(places, scores, strict=True):
        text = f"{100 * score:.1f} %" if percent else f"{score:+.2f}"
        axes.annotate(
            text, (score, place), xytext=(3 if score >= 0 else -3, 0), textcoords="offset points",
            ha="left" if score >= 0 else "right", va="center", fontsize=7,
        )  # fmt: skip
    low, high = min(scores.min(), 0.0), max(scores.max(), 0.0)
    room = 0.3 * ((high - low) or 1.0)  # for the numbers
    axes.set_xlim(low - room * (low < 0), high + room)
    axes.set_ylim(len(words) - 0.4, -0.6)
    axes.set_yticks(places, [shorten(word.text, 22) for word in words] if named else [""] * len(words))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.axvline(0, color="0.3", linewidth=0.8)
    if percent:
        special = explanation.shares(method)["special"]
        axes.set_xlabel(f"share of the representation (special tokens: {100 * special:.0f} %)")
    else:
        axes.set_xlabel(f"change of {shorten(explanation.target, 44)}")
    axes.set_title(TITLES[method], loc="left")
    if percent:
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axes.locator_params(axis="x", nbins=max(3, int(WIDTH) // 2))


def _style(segment: str) -> dict[str, Any]:
    number = SEGMENTS.index(segment)
    colour = COLOURS[(2, 3, 0, 1)[number]]
    return {"facecolor": colour, "edgecolor": "white", "linewidth": 0, "hatch": HATCHES[number]}
