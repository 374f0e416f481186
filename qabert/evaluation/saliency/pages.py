"""Explanations to read: a table for the terminal, and a page of HTML that needs no other file.

Texts come from data: the page escapes them, lets each find its own writing direction, and nothing in it runs.  Colour
is never the only sign: a word's number shows when the mouse is on it, and those of the strongest stand in a table.
"""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from qabert.evaluation.figures.style import shorten
from qabert.evaluation.saliency.explanations import Explanation
from qabert.evaluation.saliency.tokens import SEGMENTS
from qabert.files import whole_file
from qabert.tables import table

TITLES = {"rollout": "Attention rollout", "gradients": "Integrated gradients"}
LARGE_GAP = 0.1  # of the change, above which gradients are called inexact
FAINT = 0.05  # of the strongest word's score: below it no line says that a word counts against the answer
STRONGEST = 12  # words in an explanation's table
TOP = 12  # words of a task that the page shows; the JSON file has more
# Blue towards, orange against (safe for colour-blind readers); in grey a broken line under a word means against.
STYLE = """
:root { color-scheme: light }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #111;
  background: #fff }
section { border-top: 1px solid #ccc; margin-top: 2rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem } h3 { font-size: 1rem; margin-bottom: .3rem }
table { border-collapse: collapse } th, td { padding: .2rem .7rem; text-align: left; vertical-align: top }
.numbers th, .numbers td { border-bottom: 1px solid #ddd } .numbers td.n { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap }
.text { width: 100% } .text th { width: 8rem; font-weight: normal; color: #555; white-space: nowrap }
.text td, .numbers td:first-child { text-align: start; overflow-wrap: anywhere }
.numbers td:first-child { min-width: 6rem } .side > div { max-width: 100% }
.scroll { overflow-x: auto } .side { display: flex; flex-wrap: wrap; gap: 0 3rem }
.w { border-radius: .2rem; padding: .1rem 0 } .against { border-bottom: 2px dashed #a33f00 }
.toward { border-bottom: 2px solid transparent } .note { color: #555 }
"""


def explanation_text(explanation: Explanation) -> str:
    """The answer and a table of its words, for a terminal."""
    methods = list(explanation.scores)
    scores = {method: explanation.word_scores(method) for method in methods}
    lines = [
        [shorten(word.text, 40), word.segment, *(_number(method, values[n]) for method, values in scores.items())]
        for n, word in enumerate(explanation.words)
    ]
    shares = [
        [name, *(f"{100 * explanation.shares(method)[name]:.1f} %" for method in methods)]
        for name in SEGMENTS
        if name in explanation.segments
    ]
    parts = [
        f"{explanation.task}: {shorten(_answer(explanation.answer), 200)}",
        table(["word", "part", *methods], lines),
        table(["share of", *methods], shares),
        *(shorten(note, 400) for note in _notes(explanation)),
    ]
    return "\n\n".join(parts)


def explanation_html(explanations: Iterable[Explanation], title: str = "Why this answer?") -> str:
    """A page with a heat map of each explanation for each of its methods."""
    return _page(title, [_HELP, *(_section(explanation) for explanation in explanations)])


def summary_text(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Each task's shares by segment, for a terminal; the bracket has the share of a single token."""
    rows = [
        [
            name,
            method,
            *(
                f"{100 * found['share'][segment]:.1f} % ({100 * found['share_per_token'][segment]:.2f})"
                if summary["tokens"][segment]
                else "-"
                for segment in SEGMENTS
            ),
        ]
        for name, summary in summaries.items()
        for method, found in summary["methods"].items()
    ]
    return table(["task", "method", *SEGMENTS], rows)


def summary_html(summaries: Mapping[str, Mapping[str, Any]], examples: Mapping[str, Sequence[Explanation]]) -> str:
    """A page with the shares by segment, the words that count most, and example heat maps, by task."""
    parts = [_HELP]
    for name, summary in summaries.items():
        parts.append(f"<section><h2>Task {_escape(name)}: {summary['rows']} rows</h2>{_share_table(summary)}")
        if "completeness" in summary:
            found = summary["completeness"]
            parts.append(
                f"<p class=note>Integrated gradients: their sums miss the outputs' differences from the baseline by "
                f"{found['gap']:.3g} on average ({100 * found['relative']:.1f} % of the mean difference), at most by "
                f"{found['largest_gap']:.3g}.</p>"
            )
        words = [
            f"<div><h3>{TITLES[method]}: {what}</h3>{_word_table(method, found[key][:TOP])}</div>"
            for method, found in summary["methods"].items()
            for what, key in (("words of the sentences", "words"), ("words of the prompt", "prompt_words"))
            if found[key]
        ]
        parts.append(f"<div class=side>{''.join(words)}</div></section>")
    parts += [_section(explanation) for several in examples.values() for explanation in several]
    return _page("Where the model looks", parts)


def write_summary(
    folder: Path, settings: Mapping[str, Any], explained: Mapping[str, Sequence[Explanation]], examples: int = 4
) -> dict[str, dict[str, Any]]:
    """Write `saliency.json` and `saliency.html`, each whole or not at all.

    Args:
        folder: Where to.
        settings: What to write at the head of the JSON file.
        explained: Explanations of each task's rows; the first few of them are the page's examples.
        examples: How many of each task.

    Returns:
        The tasks' summaries; see `saliency.summarise`.
    """
    from qabert.evaluation.saliency.explanations import summarise

    summaries = {name: summarise(explanations) for name, explanations in explained.items()}
    with whole_file(folder / "saliency.json") as file:
        json.dump({**settings, "tasks": summaries}, file, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(folder / "saliency.html") as file:
        file.write(summary_html(summaries, {name: several[:examples] for name, several in explained.items()}))
    return summaries


_HELP = (
    "<p class=note>The stronger a word's background, the more it counted; put the mouse on a word for its number. "
    "<b>Attention rollout</b>: which share of the sentence's representation comes from the word. <b>Integrated "
    "gradients</b>: by how much the word moved the answer, "
    '<span class="w toward" style="background:rgba(0,114,178,.4)">up (blue)</span> or '
    '<span class="w against" style="background:rgba(213,94,0,.4)">down (orange, underlined)</span>. '
    "The special tokens' share of the gradients is 0 by construction.</p>"
)


def _section(explanation: Explanation) -> str:
    parts = [f"<section><h2 dir=auto>{_escape(explanation.task)}: {_escape(_answer(explanation.answer))}</h2>"]
    for method in explanation.scores:
        parts.append(f"<h3>{TITLES[method]}</h3>{heat_map(explanation, method)}")
    parts += [f"<p class=note dir=auto>{_escape(note)}</p>" for note in _notes(explanation)]
    parts.append(f"{_strongest(explanation)}</section>")
    return "".join(parts)


def heat_map(explanation: Explanation, method: str, names: Mapping[str, str] | None = None) -> str:
    """A table of the row's words, as escaped HTML; what its classes look like is the page's.

    Args:
        explanation: The row.
        method: One of those that it was explained by.
        names: Segments to show and what they are called; None for all of them.
    """
    lines = _lines(explanation, method, names or dict(zip(SEGMENTS, SEGMENTS, strict=True)))
    return f"<table class=text>{''.join(lines)}</table>"


def _lines(explanation: Explanation, method: str, names: Mapping[str, str]) -> Iterator[str]:
    """Rows of the heat map: stretches of one segment, then all special tokens."""
    scores = explanation.word_scores(method)
    plain = [word.segment != "special" for word in explanation.words]
    top = float(np.abs(scores[plain]).max(initial=0)) or 1.0  # rollout's first token would leave the words pale
    shares = explanation.shares(method)
    numbered = list(zip(explanation.words, scores, strict=True))
    stretches = [
        (segment, list(stretch))
        for (segment, _), stretch in groupby(numbered, lambda item: (item[0].segment, item[0].input))
        if segment != "special"
    ]
    stretches.append(("special", [item for item in numbered if item[0].segment == "special"]))
    seen: set[str] = set()
    for segment, stretch in stretches:
        if segment not in names:
            continue
        spans: list[str] = []
        for word, score in stretch:
            kind = "against" if score < -FAINT * top else "toward"
            colour = "0,114,178" if score >= 0 else "213,94,0"
            style = f"background:rgba({colour},{min(abs(score) / top, 1) * 0.75:.2f})"
            text = _escape(word.text)
            before = _escape(word.before) if spans else ""
            title = f"{text}: {_number(method, score)}"
            spans.append(f'{before}<span class="w {kind}" style="{style}" title="{title}">{text}</span>')
        share = "" if segment in seen else f" {100 * shares[segment]:.0f} %"  # the segment's, not the stretch's
        seen.add(segment)
        yield f"<tr><th>{_escape(names[segment])}{share}</th><td dir=auto>{''.join(spans)}</td></tr>"


def _strongest(explanation: Explanation) -> str:
    """The words that count most by any method, in the row's order."""
    scores = {method: explanation.word_scores(method) for method in explanation.scores}
    strength = np.zeros(len(explanation.words))
    for values in scores.values():
        strength = np.maximum(strength, np.abs(values) / (np.abs(values).max() or 1.0))
    strength[[word.segment == "special" for word in explanation.words]] = -1
    chosen = sorted(np.argsort(-strength, kind="stable")[:STRONGEST])
    rows = [
        [explanation.words[n].text, explanation.words[n].segment, *(_number(m, v[n]) for m, v in scores.items())]
        for n in chosen
        if strength[n] >= 0
    ]
    return _table(["word", "part", *(TITLES[method] for method in scores)], rows)


def _share_table(summary: Mapping[str, Any]) -> str:
    rows = [
        [segment, f"{summary['tokens'][segment]:.1f}", *(
            f"{100 * found[key][segment]:.{digits}f} %"
            for found in summary["methods"].values()
            for key, digits in (("share", 1), ("share_per_token", 2))
        )]
        for segment in SEGMENTS
        if summary["tokens"][segment]
    ]  # fmt: skip
    heads = [f"{TITLES[method]}{what}" for method in summary["methods"] for what in ("", ", per token")]
    return _table(["part", "tokens per row", *heads], rows)


def _word_table(method: str, words: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [word["word"], str(word["count"]), f"{word['mean_absolute']:.4f}"]
        + ([_number(method, word["mean"])] if method == "gradients" else [])
        for word in words
    ]
    return _table(["word", "seen", "mean absolute", *(["mean"] if method == "gradients" else [])], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(number: int, text: str) -> str:
        numeric = number > 0 and text[:1] in "+-0123456789"
        return f"<td{' class=n' if numeric else ''} dir=auto>{_escape(text)}</td>"

    head = "".join(f"<th>{_escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(cell(n, text) for n, text in enumerate(row))}</tr>" for row in rows)
    return f"<div class=scroll><table class=numbers><tr>{head}</tr>{body}</table></div>"


def _page(title: str, parts: Sequence[str]) -> str:
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{_escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{_escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _escape(text: str) -> str:
    """Text as HTML shows it; control characters, which HTML can't hold, become the sign for "not readable"."""
    kept = (" " if s in "\t\n\r" else "\ufffd" if unicodedata.category(s) in ("Cc", "Cs") else s for s in text)
    return html.escape("".join(kept), quote=True)


def _answer(answer: Mapping[str, Any]) -> str:
    if "value" in answer:
        return f"{answer['value']:.2f}"
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in answer["probabilities"].items())
    return f"{answer['label']} ({shares})"


def _notes(explanation: Explanation) -> list[str]:
    notes = []
    if explanation.truncated:
        notes.append("The row is longer than the model reads: the end of a sentence was cut off.")
    if explanation.change is not None and explanation.gap is not None:
        inexact = explanation.gap > LARGE_GAP * abs(explanation.change)
        notes.append(
            f"Integrated gradients explain {explanation.target}: {explanation.change:+.3f} against mask tokens instead "
            f"of words; their sum misses that by {explanation.gap:.3f}"
            + (": they are inexact here, take more steps." if inexact else ".")
        )
    return notes


def _number(method: str, score: float) -> str:
    return f"{100 * score:.2f} %" if method == "rollout" else f"{score:+.3f}"
