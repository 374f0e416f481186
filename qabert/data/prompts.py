"""Input formats: how a row becomes token ids.  Each is a pure function of a batch of rows, for `Dataset.map`.

| format | one sentence | a pair |
|---|---|---|
| `separate` | `[CLS] a [SEP]` | two inputs, `[CLS] a [SEP]` and `[CLS] b [SEP]` (the paper's baseline) |
| `joint` | `[CLS] a [SEP]` | `[CLS] a [SEP] b [SEP]` |
| `qa` | `[CLS] question [SEP] context [SEP]` | the same, with both sentences in the context (the paper's Q&ABERT) |

A new format is one more function in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Formatter
from typing import TYPE_CHECKING, Any

from qabert.errors import InputError, unknown
from qabert.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The one or two texts of one encoder input.
Texts = tuple[str, str | None]


def separate(task: Task, text_a: str, text_b: str | None) -> list[Texts]:
    """Each sentence alone."""
    return [(text_a, None)] if text_b is None else [(text_a, None), (text_b, None)]


def joint(task: Task, text_a: str, text_b: str | None) -> list[Texts]:
    """The pair in one input, without a question."""
    return [(text_a, text_b)]


def qa(task: Task, text_a: str, text_b: str | None) -> list[Texts]:
    """The task's question, then the row as its context (paper, table 1)."""
    # Only the context's own fields are filled in: a brace inside a sentence is text.
    texts = {"text_a": text_a, "text_b": text_b or "", None: ""}
    context = "".join(literal + texts[name] for literal, name, _, _ in Formatter().parse(task.context))
    return [(task.question, context)]


FORMATS: dict[str, Callable[[Task, str, str | None], list[Texts]]] = {"separate": separate, "joint": joint, "qa": qa}


class PromptEncoder:
    """`Dataset.map(PromptEncoder(...), batched=True)`: rows to features.

    Features of a batch of rows:
        `input_ids`, and `token_type_ids` where the tokenizer makes them: for each row a list of one or two token lists;
        `length`: tokens of the row's longest input; `truncated`: whether anything was cut off;
        `labels`: the label, if the rows have one; `task`: its name.

    Args:
        input_format: A key of `FORMATS`.
        tokenizer: A fast tokenizer (character offsets are needed to cut a sentence at a token).
        task: The rows' task.
        max_length: Longest input in tokens.
        exchanged: Whether a pair's sentences change places.

    Raises:
        InputError: Unknown format, slow tokenizer, or a question so long that no sentence fits beside it.
    """

    def __init__(
        self,
        input_format: str,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        max_length: int,
        exchanged: bool = False,
    ) -> None:
        if input_format not in FORMATS:
            raise unknown("format", input_format, FORMATS)
        if not tokenizer.is_fast:
            raise InputError(
                f"the encoder's tokenizer ({type(tokenizer).__name__}) is a slow one; a fast one is needed"
            )
        self.input_format, self.tokenizer, self.task, self.max_length = input_format, tokenizer, task, max_length
        self.exchanged = exchanged
        bare = max(len(self._tokenize(texts)["input_ids"]) for texts in self._texts("", "" if task.pair else None))
        room = max_length - bare
        if room < 2 * (1 + task.pair):
            raise InputError(
                f"max_length {max_length}: the question and special tokens of task '{task.name}' take {bare} of them, "
                f"which leaves {max(room, 0)} for its sentences"
            )

    def __call__(self, rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Encode a batch of rows (`text_a`, `text_b`, `label`, `id`)."""
        if self.exchanged:
            rows = {**rows, "text_a": rows["text_b"], "text_b": rows["text_a"]}
        inputs: list[list[Texts]] = [self._texts(a, b) for a, b in zip(rows["text_a"], rows["text_b"], strict=True)]
        flat = [texts for row in inputs for texts in row]
        # All first texts and all second texts at once: the tokenizer is fast only in batches.
        pairs = None if flat and flat[0][1] is None else [second for _, second in flat]
        encoded = self.tokenizer([first for first, _ in flat], pairs, truncation=False, verbose=False)
        keys = [key for key in ("input_ids", "token_type_ids") if key in encoded]
        features: dict[str, list[Any]] = {key: [] for key in (*keys, "length", "truncated")}
        position = 0
        for number, row in enumerate(inputs):
            tokens = {key: encoded[key][position : position + len(row)] for key in keys}
            position += len(row)
            truncated = max(map(len, tokens["input_ids"])) > self.max_length
            if truncated:
                short = [
                    self._tokenize(texts) for texts in self._shorten(rows["text_a"][number], rows["text_b"][number])
                ]
                tokens = {key: [one[key] for one in short] for key in keys}
            for key in keys:
                features[key].append(tokens[key])
            features["length"].append(max(map(len, tokens["input_ids"])))
            features["truncated"].append(truncated)
        if "label" in rows and all(label is not None for label in rows["label"]):
            features["labels"] = list(rows["label"])
        features["task"] = [self.task.name] * len(inputs)
        return features

    def _texts(self, text_a: str, text_b: str | None) -> list[Texts]:
        return FORMATS[self.input_format](self.task, text_a, text_b)

    def _tokenize(self, texts: Texts) -> Any:
        return self.tokenizer(*texts, truncation=False, verbose=False)

    def _shorten(self, text_a: str, text_b: str | None) -> list[Texts]:
        """The row's texts with the sentences cut, the longer one first, until every input fits."""
        sentences = [text_a] if text_b is None else [text_a, text_b]
        ends = []  # for each sentence, the character at which each of its tokens ends
        for sentence in sentences:
            offsets = self.tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ends.append([end for _, end in offsets["offset_mapping"]])
        sizes = [len(one) for one in ends]
        while True:
            cut = [s[: e[n - 1]] if n else "" for s, e, n in zip(sentences, ends, sizes, strict=True)]
            texts = self._texts(cut[0], cut[1] if text_b is not None else None)
            over = [len(self._tokenize(one)["input_ids"]) - self.max_length for one in texts]
            if max(over) <= 0:
                return texts
            if len(texts) > 1:  # the inputs are independent: shorten each that is over
                sizes = [max(n - max(o, 0), 0) for n, o in zip(sizes, over, strict=True)]
            else:
                sizes = _cut_longest(sizes, over[0])


def _cut_longest(sizes: list[int], excess: int) -> list[int]:
    """Take `excess` tokens off, always from the sentence that is longest (the first one where they are equal).

    >>> _cut_longest([10, 4], 8)
    [3, 3]
    """
    sizes = list(sizes)
    for _ in range(min(excess, sum(sizes))):
        sizes[sizes.index(max(sizes))] -= 1
    return sizes
