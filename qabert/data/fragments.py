"""Parts of sentences, as further rows for a teacher to label: what a sentence says is in its parts, too.

A student learns more from a teacher on many texts than on few (Jiao et al., 2020, section 4.1), and a part of a
sentence is a text of its kind at no cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets

#: Words of the shortest part.
FEWEST = 3
_MARKS = re.compile(r"\s*(?:[,;:()…]|--+|\.\.\.)\s+|\s+(?:[,;:()…]|--+|\.\.\.)\s*")


def clauses(text: str) -> list[str]:
    """What stands between a sentence's marks, if it has at least `FEWEST` words.

    Example:
        >>> clauses("A bit long , but never dull : see it !")
        ['A bit long', 'but never dull', 'see it !']
    """
    return [part.strip() for part in _MARKS.split(text) if len(part.split()) >= FEWEST]


def parts(text: str, others: Sequence[str], count: int, generator: np.random.Generator) -> Iterator[str]:
    """Parts of a sentence without end: by turns a clause, a stretch of words, and a clause joined with another's.

    Args:
        text: The sentence.
        others: Clauses of other sentences.
        count: How many of its own clauses there are at most, a third of what is asked for.
        generator: What is drawn with.
    """
    words, own = text.split(), clauses(text)
    yield from own[: -(-count // 3)]
    while True:
        if len(words) > FEWEST:
            length = int(generator.integers(FEWEST, len(words)))
            start = int(generator.integers(0, len(words) - length + 1))
            yield " ".join(words[start : start + length]).strip(" ,;:-")
        if own and others:
            one, other = int(generator.integers(len(own))), int(generator.integers(len(others)))
            yield f"{own[one]} , {others[other]}"
        if len(words) <= FEWEST and not (own and others):
            return


def fragments(rows: datasets.Dataset, count: int, seed: int) -> datasets.Dataset:
    """Further rows: parts of each row's sentence that are no sentence of the rows, each once.

    Args:
        rows: Rows of one sentence: `text_a`, `id`.
        count: How many of each row at most; fewer of a short sentence.
        seed: With the rows, all that the choice depends on.

    Returns:
        Rows with `text_a`, an empty `text_b`, and an `id` that has the sentence's in it.
    """
    import datasets

    generator = np.random.default_rng([seed, count])
    texts: list[str] = list(rows["text_a"])
    others = [clause for text in texts for clause in clauses(text)]
    seen = {_folded(text) for text in texts}
    found: dict[str, list[Any]] = {"id": [], "text_a": [], "text_b": []}
    for row_id, text in zip(rows["id"], texts, strict=True):
        made = 0
        for tried, part in enumerate(parts(text, others, count, generator)):
            if made == count or tried == 3 * count:
                break
            if _folded(part) in seen or not any(map(str.isalnum, part)):
                continue
            seen.add(_folded(part))
            made += 1
            for key, value in (("id", f"{row_id} part {made}"), ("text_a", part), ("text_b", None)):
                found[key].append(value)
    features = datasets.Features({key: datasets.Value("string") for key in found})
    return datasets.Dataset.from_dict(found, features=features)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def with_labels(features: datasets.Dataset, labels: np.ndarray, like: Mapping[str, Any]) -> datasets.Dataset:
    """Features with a column `labels` of the type that it has in others."""
    return features.add_column("labels", labels.tolist()).cast_column("labels", like["labels"])
