"""Further rows of a task for a teacher to label: parts of its sentences, or its sentences in new pairs.

A student learns more from a teacher on many texts than on few (Jiao et al., 2020, section 4.1).  A part of a sentence
is a text of its kind at no cost; sentences that are near each other, but in no pair yet, make pairs of any similarity,
where random ones would nearly all be unlike (Thakur et al., 2021, section 3).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import datasets

#: Words of the shortest part.
FEWEST = 3
#: How many more of a sentence's neighbours its new pairs are drawn from than are drawn.
NEAREST = 5
#: Texts that are compared with all texts at once.
AT_ONCE = 256
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


def further_rows(rows: datasets.Dataset, pair: bool, count: int, seed: int = 42) -> datasets.Dataset:
    """Further rows: parts of each row's sentence, or each sentence of the rows with one that is near it.

    None is one of the rows', and none comes twice; of a pair, neither in the other order.

    Args:
        rows: A task's: `id`, `text_a`, `text_b`.
        pair: Whether the rows are pairs.
        count: How many of each sentence at most; fewer of a short or lonely one.
        seed: With the rows, all that the choice depends on.

    Returns:
        Rows with `text_a`, `text_b` (None if not `pair`), and an `id` that begins with that of the sentence's row.
    """
    import datasets

    generator = np.random.default_rng([seed, count])
    found = list((_near_pairs if pair else _parts)(rows, count, generator))
    columns = zip(*found, strict=True) if found else ((), (), ())
    named = dict(zip(("id", "text_a", "text_b"), map(list, columns), strict=True))
    return datasets.Dataset.from_dict(named, features=datasets.Features(dict.fromkeys(named, datasets.Value("string"))))


def _parts(rows: datasets.Dataset, count: int, generator: np.random.Generator) -> Iterator[tuple[str, str, str | None]]:
    texts: list[str] = list(rows["text_a"])
    others = [clause for text in texts for clause in clauses(text)]
    seen = {_folded(text) for text in texts}
    for row_id, text in zip(rows["id"], texts, strict=True):
        made = 0
        for tried, part in enumerate(parts(text, others, count, generator)):
            if made == count or tried == 3 * count:
                break
            if _folded(part) in seen or not any(map(str.isalnum, part)):
                continue
            seen.add(_folded(part))
            made += 1
            yield f"{row_id} part {made}", part, None


def _near_pairs(rows: datasets.Dataset, count: int, generator: np.random.Generator) -> Iterator[tuple[str, str, str]]:
    pairs = list(zip(rows["text_a"], rows["text_b"], strict=True))
    seen = {frozenset(map(_folded, pair)) for pair in pairs}
    first = {text: row_id for row_id, pair in reversed(list(zip(rows["id"], pairs, strict=True))) for text in pair}
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    for text, near in zip(texts, neighbours(texts, NEAREST + count), strict=True):
        made = 0
        for other in generator.permutation(near):
            pair = frozenset((_folded(text), _folded(texts[other])))
            if made == count:
                break
            if len(pair) == 1 or pair in seen:
                continue
            seen.add(pair)
            made += 1
            yield f"{first[text]} pair {made} of '{text}'", text, texts[other]


def neighbours(texts: Sequence[str], count: int) -> Iterator[np.ndarray]:
    """Of each text the indices of those others that it has most words in common with, the nearest first.

    Near is the cosine of both texts' words and pairs of words, weighted by how rare they are (tf-idf).

    Args:
        texts: Each once.
        count: How many at most; one that shares no word is none.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(re.search(r"\w", text) for text in texts):
        yield from ([np.zeros(0, dtype=np.int64)] * len(texts))
        return
    vectors = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    for start in range(0, len(texts), AT_ONCE):
        alike = vectors[start : start + AT_ONCE] @ vectors.T
        for row in range(alike.shape[0]):
            part = slice(alike.indptr[row], alike.indptr[row + 1])
            others, values = alike.indices[part], alike.data[part]
            nearest = others[np.lexsort((others, -values))]
            yield nearest[nearest != start + row][:count]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
