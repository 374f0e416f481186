"""Further rows: parts of sentences and new pairs of near ones, each once, none of them one of the rows."""

from __future__ import annotations

import datasets
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qabert.data.augmentation import NEAREST, clauses, further_rows, neighbours, parts

sentences = st.lists(
    st.lists(st.sampled_from(["one", "two", "Three", "four", "five", ",", ";", "--", "(", "don't"]), max_size=14).map(
        " ".join
    ),
    min_size=1,
    max_size=8,
)


def rows_of(texts):
    return datasets.Dataset.from_dict({"id": [f"r{n}" for n in range(len(texts))], "text_a": texts})


def fragments(rows, count, seed):
    return further_rows(rows, False, count, seed)


@given(sentences, st.integers(1, 6), st.integers(0, 3))
def test_each_part_is_new_and_of_its_sentences_words(texts, count, seed):
    found = fragments(rows_of(texts), count, seed)
    parts_of = {}
    for row in found:
        name = row["id"].rsplit(" part ", 1)[0]
        parts_of.setdefault(name, []).append(row["text_a"])
        assert row["text_b"] is None
        assert row["text_a"].split()[0] in texts[int(name[1:])]
    made = [" ".join(text.casefold().split()) for text in found["text_a"]]
    assert len(set(made)) == len(made)
    assert not set(made) & {" ".join(text.casefold().split()) for text in texts}
    assert max(map(len, parts_of.values()), default=0) <= count
    assert fragments(rows_of(texts), count, seed).to_dict() == found.to_dict()


def test_clauses_stand_between_marks():
    assert clauses("A bit long , but never dull : see it !") == ["A bit long", "but never dull", "see it !"]
    assert clauses("It's well-made, and (at times) very, very funny.") == []
    assert clauses("It's well-made -- and funny at times") == ["and funny at times"]
    assert clauses("") == [] and clauses("3.5 stars") == []


def test_long_sentences_give_as_many_parts_as_asked():
    texts = [f"w{n} is a film that takes its time , and then some more , before x{n} ends it" for n in range(20)]
    found = fragments(rows_of(texts), 9, 0)
    assert len(found) == 180
    lengths = np.array([len(text.split()) for text in found["text_a"]])
    assert lengths.min() >= 2 and lengths.max() > 9 > lengths.min()
    assert fragments(rows_of(texts), 9, 1)["text_a"] != found["text_a"]


def test_a_short_sentence_alone_has_none():
    assert list(parts("so good", [], 3, np.random.default_rng(0))) == []
    assert len(fragments(rows_of(["so good", "bad"]), 4, 0)) == 0


def folded(*texts):
    return frozenset(" ".join(text.casefold().split()) for text in texts)


pairs = st.lists(
    st.tuples(*[st.lists(st.sampled_from(["a", "cat", "Cat", "dog", "sat", "?"]), max_size=3).map(" ".join)] * 2),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(pairs, st.integers(1, 4), st.integers(0, 3))
def test_each_new_pair_is_of_the_rows_sentences_and_new(texts, count, seed):
    rows = datasets.Dataset.from_dict(
        {"id": [f"r{n}" for n in range(len(texts))], "text_a": [a for a, _ in texts], "text_b": [b for _, b in texts]}
    )
    found = further_rows(rows, True, count, seed)
    given_texts = {text for pair in texts for text in pair}
    made = [folded(row["text_a"], row["text_b"]) for row in found]
    assert all(row["text_a"] in given_texts and row["text_b"] in given_texts for row in found)
    assert len(set(made)) == len(made) and all(len(pair) == 2 for pair in made)
    assert not set(made) & {folded(*pair) for pair in texts}
    assert max((found["text_a"].count(text) for text in given_texts), default=0) <= count
    assert len(set(found["id"])) == len(found)
    for row in found:
        number = int(row["id"].split(" pair ")[0][1:])
        assert row["text_a"] in texts[number]
    assert further_rows(rows, True, count, seed).to_dict() == found.to_dict()


def test_new_pairs_are_near(monkeypatch):
    """Sentences of one subject are paired with each other, and each gets as many as asked."""
    subjects = ["a man rides a horse", "the court ruled on taxes", "rain falls in spring"]
    texts = [(f"{subject} {n}x", f"{subject} {n}y") for subject in subjects for n in range(10)]
    rows = datasets.Dataset.from_dict(
        {"id": [f"r{n}" for n in range(30)], "text_a": [a for a, _ in texts], "text_b": [b for _, b in texts]}
    )
    found = further_rows(rows, True, 2, 0)
    assert 110 <= len(found) <= 120
    assert all(row["text_a"][:5] == row["text_b"][:5] for row in found)
    assert further_rows(rows, True, 2, 1)["text_b"] != found["text_b"]
    monkeypatch.setattr("qabert.data.augmentation.AT_ONCE", 7)
    assert further_rows(rows, True, 2, 0).to_dict() == found.to_dict()


def test_neighbours_are_those_with_rare_words_in_common():
    texts = ["the cat sat", "the dog ran", "a cat sat down", "the sun", "nothing else"]
    found = [list(near) for near in neighbours(texts, NEAREST)]
    assert found[0][0] == 2 and set(found[0]) == {1, 2, 3}
    assert found[2] == [0] and found[4] == []
    assert list(next(neighbours(texts, 1))) == [2]
    assert [list(near) for near in neighbours(["?", "!"], 3)] == [[], []]
