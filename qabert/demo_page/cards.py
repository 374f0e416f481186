"""What the page shows: a card for each task, as HTML.  No web framework is needed here.

Texts come from people and from models: the template escapes every one of them (`autoescape`) but the heat map, which
escapes for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from qabert.errors import InputError, is_unicode
from qabert.evaluation.figures.style import shorten
from qabert.evaluation.saliency.explanations import Explanation, explain
from qabert.evaluation.saliency.pages import heat_map
from qabert.inference import Predictor
from qabert.tasks import Task

#: Characters of a sentence that the page takes: the tokenizer reads all of it before it is cut to the model's length.
MAX_CHARACTERS = 10_000
#: Labels that have a bar; of more, the likeliest.
MAX_BARS = 12
#: Points of the gradients' integral: a page is waited for.
STEPS = 16
#: What the parts of a row are called; special tokens and the words around the sentences aren't shown.
PARTS = {
    "sentence_a": "First sentence",
    "sentence_b": "Second sentence",
    "question": "Question",
}
METHODS = {
    "gradients": "How far each word moved the answer",
    "rollout": "Where the model looked",
    "none": "Don't explain",
}


@dataclass
class Answer:
    """One row's answer to one task.

    Args:
        texts: The row's one or two sentences.
        said: The label, or the value.
        bars: `(label, share)`, in the task's order.
        place: Where a regression's value lies in its range, from 0 to 1; None for labels.
        explanation: None before there is one.
    """

    texts: tuple[str, str | None]
    said: str
    bars: list[tuple[str, float]] = field(default_factory=list)
    place: float | None = None
    explanation: Explanation | None = None


@dataclass
class Card:
    """A task and its answers; none for a pair's task without a second sentence."""

    task: Task
    answers: list[Answer]
    left_out: int = 0  # labels without a bar


def check_sentences(text_a: str, text_b: str) -> tuple[str, str | None]:
    """The sentences as typed, without the blanks around them; None for an empty second one.

    Raises:
        InputError: No first sentence, a longer one than `MAX_CHARACTERS`, or half a surrogate pair.
    """
    for which, text in (("first", text_a), ("second", text_b)):
        if not is_unicode(text):
            raise InputError(f"The {which} sentence holds half a character (a lone surrogate): please type it anew.")
        if len(text) > MAX_CHARACTERS:
            raise InputError(
                f"The {which} sentence has {len(text):,} characters; this page takes up to {MAX_CHARACTERS:,}."
            )
    if not text_a.strip():
        if text_b.strip():
            raise InputError("The first sentence is empty: type one above the second.")
        raise InputError("Type a sentence first.")
    return text_a.strip(), text_b.strip() or None


def answer_cards(predictor: Predictor, text_a: str, text_b: str | None, method: str = "none") -> Iterator[list[Card]]:
    """Every task's card; first with answers only, then again with each further explanation.

    A task of one sentence answers each of two; a task of pairs waits for the second one.

    Args:
        predictor: The model.
        text_a: A sentence.
        text_b: Another one, or None.
        method: A key of `METHODS`, how answers are explained.

    Raises:
        InputError: See `Predictor.predict` and `explain`.
    """
    cards = []
    for name, task in predictor.tasks.items():
        rows: list[tuple[str, str | None]] = [(text_a, None)] if text_b is None else [(text_a, None), (text_b, None)]
        if task.pair:
            rows = [] if text_b is None else [(text_a, text_b)]
        found = [_answer(task, row, given) for row, given in zip(rows, predictor.predict(name, rows), strict=True)]
        cards.append(Card(task, found, max(len(task.labels) - MAX_BARS, 0)))
    yield cards
    for card in cards if method != "none" else []:
        for answer in card.answers:
            answer.explanation = explain(predictor, card.task.name, *answer.texts, [method], STEPS)
            yield cards


def _answer(task: Task, texts: tuple[str, str | None], given: Mapping[str, Any]) -> Answer:
    if task.range is not None:
        low, high = task.range
        return Answer(texts, f"{given['value']:.2f}", place=min(max((given["value"] - low) / (high - low), 0), 1))
    shares = given["probabilities"]
    likeliest = set(sorted(shares, key=shares.get, reverse=True)[:MAX_BARS])
    return Answer(texts, given["label"], [(label, share) for label, share in shares.items() if label in likeliest])


def cards_html(cards: list[Card], busy: bool = False) -> str:
    """The cards as HTML; `busy` says that explanations are still to come."""
    methods = {
        name for card in cards for answer in card.answers if answer.explanation for name in answer.explanation.scores
    }
    return _template().render(cards=cards, busy=busy, legend="".join(methods))


def message_html(message: str) -> str:
    """A message in the place of the cards."""
    return _template().render(message=message)


def heading_html(name: str, tasks: int) -> str:
    """The page's first lines."""
    return _template().render(heading=name, tasks=tasks)


def strongest_words(explanation: Explanation, count: int = 3) -> str:
    """The words of the sentences that count most, with their numbers: what colours say, in words."""
    (method,) = explanation.scores
    scores = explanation.word_scores(method)
    own = [
        n
        for n, word in enumerate(explanation.words)
        if word.segment.startswith("sentence") and any(map(str.isalnum, word.text))
    ]
    chosen = sorted(own, key=lambda n: -np.abs(scores[n]))[:count]
    return ", ".join(
        f"{shorten(explanation.words[n].text, 30)} ({scores[n]:+.2f})"
        if method == "gradients"
        else f"{shorten(explanation.words[n].text, 30)} ({100 * scores[n]:.0f} %)"
        for n in chosen
    )


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("qabert.demo_page", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(heat_map=_parts, strongest=strongest_words, shorten=shorten)
    return environment.get_template("cards.html.jinja")


def _parts(explanation: Explanation) -> Any:
    from markupsafe import Markup

    (method,) = explanation.scores
    names = PARTS if "sentence_b" in explanation.segments else PARTS | {"sentence_a": "Sentence"}
    return Markup(heat_map(explanation, method, names))  # escaped there
