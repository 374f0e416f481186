"""Parts of sentences: of the sentence's words, each once, none of them a sentence of the rows."""

from __future__ import annotations

import datasets
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qabert.data.fragments import clauses, fragments, parts

sentences = st.lists(
    st.lists(st.sampled_from(["one", "two", "Three", "four", "five", ",", ";", "--", "(", "don't"]), max_size=14).map(
        " ".join
    ),
    min_size=1,
    max_size=8,
)


def rows_of(texts):
    return datasets.Dataset.from_dict({"id": [f"r{n}" for n in range(len(texts))], "text_a": texts})


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
