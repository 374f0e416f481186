"""Which part of a row each token comes from: the question, the context's template, a sentence, or none of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qabert.data.prompts import FORMATS, PromptEncoder, Texts
from qabert.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: `template` is what a context says around its sentences ("First sentence:"); `special` are `[CLS]`, `[SEP]` and such.
SEGMENTS = ("question", "template", "sentence_a", "sentence_b", "special")
_MARKS = {"sentence_a": "\ue000", "sentence_b": "\ue001"}  # for private use: no declared text has them

#: Where a piece of text ends (the next one starts there), and its segment.
Spans = list[tuple[int, str]]


@dataclass(frozen=True)
class Word:
    """A word as a person reads it.

    Args:
        text: As it stands in the row (a special token: its name).
        before: What stands between it and the word before, mostly a blank.
        segment: One of `SEGMENTS`.
        input: 0, or 1 in the second of a row's two encoder inputs.
        tokens: Positions of its tokens in `Reading.tokens`.
    """

    text: str
    before: str
    segment: str
    input: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """A row as the encoder reads it.

    Args:
        feature: What `DataCollator` takes.
        tokens: Tokens of the row's inputs, one input after the other.
        segments: Each token's segment.
        words: The tokens joined into words, in their order.
        truncated: Whether the end of a sentence was cut off.
    """

    feature: dict[str, Any]
    tokens: list[str]
    segments: list[str]
    words: list[Word]
    truncated: bool


class SegmentEncoder(PromptEncoder):
    """A `PromptEncoder` that also says where each token comes from; it takes the same arguments.

    How a format lays a row out is read off the format itself, called with marks in the place of the sentences.

    Example:
        >>> encoder = SegmentEncoder("qa", tokenizer, task, 64)
        >>> encoder.read("A lovely film.", None).segments[:2]
        ['special', 'question']
    """

    def __init__(self, input_format: str, tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int) -> None:
        super().__init__(input_format, tokenizer, task, max_length)
        marked = FORMATS[input_format](task, _MARKS["sentence_a"], _MARKS["sentence_b"] if task.pair else None)
        self._layout = [[_pieces(text, task.question) for text in texts if text is not None] for texts in marked]

    def _texts(self, text_a: str, text_b: str | None) -> list[Texts]:
        # The last call is the one whose tokens are returned: a row that is too long has its sentences cut by then.
        self._sentences = {"sentence_a": text_a, "sentence_b": text_b or ""}
        return super()._texts(text_a, text_b)

    def read(self, text_a: str, text_b: str | None) -> Reading:
        """Encode one row.

        Raises:
            ValueError: The format changes the sentences, so that no token can be traced back to them.
        """
        columns = self({"text_a": [text_a], "text_b": [text_b]})
        feature = {key: values[0] for key, values in columns.items()}
        texts = super()._texts(self._sentences["sentence_a"], self._sentences["sentence_b"] if self.task.pair else None)
        tokens: list[str] = []
        segments: list[str] = []
        words: list[Word] = []
        for number, (one, layout) in enumerate(zip(texts, self._layout, strict=True)):
            given = [text for text in one if text is not None]
            spans = [self._spans(text, pieces) for text, pieces in zip(given, layout, strict=True)]
            encoded = self.tokenizer(*one, truncation=False, verbose=False, return_offsets_mapping=True)
            names: Any = self.tokenizer.convert_ids_to_tokens(encoded["input_ids"])
            places = list(zip(encoded.sequence_ids(), encoded.word_ids(), encoded["offset_mapping"], strict=True))
            own = [
                "special" if text is None else _segment(given[text], offsets, spans[text])
                for text, _, offsets in places
            ]
            words += _words(given, places, own, names, number, len(tokens))
            tokens += names
            segments += own
        return Reading(feature, tokens, segments, words, feature["truncated"])

    def _spans(self, text: str, pieces: list[tuple[str, str]]) -> Spans:
        spans: Spans = []
        built = ""
        for segment, literal in pieces:
            built += self._sentences.get(segment, literal)
            spans.append((len(built), segment))
        if built != text:
            raise ValueError(f"format '{self.input_format}' changes the sentences it is given: {text!r} for {built!r}")
        return spans


def _pieces(text: str, question: str) -> list[tuple[str, str]]:
    """Segment and wording of the pieces of a text that has marks for its sentences."""
    segments = {mark: name for name, mark in _MARKS.items()} | {question: "question"}
    pattern = "|".join(re.escape(piece) for piece in segments)
    return [(segments.get(piece, "template"), piece) for piece in re.split(f"({pattern})", text) if piece]


def _segment(text: str, offsets: tuple[int, int], spans: Spans) -> str:
    """The segment that has most of a token's characters; blanks, which some tokenizers put before a word, don't count.

    Where two have as many, it is the sentence, whose wording is the row's own.
    """
    start, end = offsets
    while start < end - 1 and text[start].isspace():
        start += 1
    best, most, begin = "template", (0, False), 0
    for stop, segment in spans:
        shared = min(end, stop) - max(start, begin)
        if start == end:  # a token of no character: where it stands
            shared = int(begin <= start <= stop)
        begin = stop
        if shared > 0 and (shared, segment.startswith("sentence")) > most:
            best, most = segment, (shared, segment.startswith("sentence"))
    return best


def _words(
    texts: list[str], places: list[Any], segments: list[str], names: list[str], number: int, first: int
) -> list[Word]:
    """Join the tokens of one encoder input into words.

    Args:
        texts: The input's one or two texts.
        places: For each token its text's number (None: a special token), its word's, and its character offsets.
        segments: Each token's segment.
        names: The tokens.
        number: The input's number in its row.
        first: The position of its first token in the row.
    """
    words: list[Word] = []
    known: Any = None  # text, word and segment of the token before
    start = end = 0  # characters of the word so far
    for position, ((text, word, (left, right)), segment) in enumerate(zip(places, segments, strict=True)):
        if text is None:
            words.append(Word(names[position], " ", segment, number, (first + position,)))
            known = None
            continue
        source = texts[text]
        before = source[end:left] if known and known[0] == text else source[:left]
        while left < right and source[left].isspace():
            before, left = before + source[left], left + 1
        if known == (text, word, segment) and not any(map(str.isspace, before)):
            end = max(end, right)
            words[-1] = Word(
                source[start:end], words[-1].before, segment, number, (*words[-1].tokens, first + position)
            )
        else:
            start, end = left, right
            words.append(Word(source[left:right] or names[position], before, segment, number, (first + position,)))
        known = (text, word, segment)
    return words
