"""The demo is the same everywhere, well formed, and its dev split shares neither words nor templates with train."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from statistics import mean

import pytest

from qabert.data import demo
from qabert.data.demo import DEMO_NOTE, DEMO_SIZES, DEMO_TASKS, demo_rows
from qabert.errors import InputError

BANKS = {"sst": demo._REVIEWS, "sts": demo._SCENES, "quora": demo._QUESTIONS}
FUNCTION_WORDS = set(
    re.findall(r"\w+", "a an as at before during failed got had in inside near of off on out outside over some to up")
)
PAIRS = [(task, split) for task in DEMO_TASKS for split in DEMO_SIZES]
LABELLED = [(task, split) for task, split in PAIRS if split != "test"]


def texts(task: str, split: str) -> list[str]:
    return [row[key] for row in demo_rows(task, split) for key in ("text_a", "text_b") if row[key] is not None]


def tokens(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def bank(task: str, side: str, frames: bool) -> set[str]:
    values = [value for topic in BANKS[task][side] for listed in topic.values() for value in listed]
    return {value for value in values if ("{" in value) == frames}


def test_rows_are_pinned() -> None:
    """A change of any row changes every published demo number; change the hash only together with those."""
    rows = [demo_rows(task, split) for task, split in PAIRS]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert digest[:16] == "596d92bebd376ef1"


@pytest.mark.parametrize(("task", "split"), PAIRS)
def test_shape_of_the_rows(task: str, split: str) -> None:
    rows = demo_rows(task, split)
    assert len(rows) == DEMO_SIZES[split]
    assert rows == demo_rows(task, split)
    assert [row["id"] for row in rows] == [f"demo-{task}-{split}-{index}" for index in range(len(rows))]
    assert all(list(row) == ["text_a", "text_b", "label", "id"] for row in rows)
    assert all((row["text_b"] is None) == (task == "sst") for row in rows)
    assert all((row["label"] is None) == (split == "test") for row in rows)


@pytest.mark.parametrize(("task", "split"), LABELLED)
def test_labels(task: str, split: str) -> None:
    labels = [row["label"] for row in demo_rows(task, split)]
    if task == "sts":
        assert all(isinstance(label, float) and 0 <= label <= 5 for label in labels)
        assert set(Counter(round(label) for label in labels)) == set(range(6))
        return
    assert all(type(label) is int for label in labels)
    shares = (0.127, 0.26, 0.19, 0.272, 0.151) if task == "sst" else (0.63, 0.37)
    for label, share in enumerate(shares):
        assert labels.count(label) / len(labels) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("task", "split"), PAIRS)
def test_no_row_twice(task: str, split: str) -> None:
    keys = [frozenset((row["text_a"], row["text_b"])) for row in demo_rows(task, split)]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 2 for key in keys)


@pytest.mark.parametrize(("task", "split"), PAIRS)
def test_texts_are_well_formed(task: str, split: str) -> None:
    for text in texts(task, split):
        assert text[0].isupper(), text
        assert text[-1] in ".?!", text
        assert not re.search(r"  | [.,?!]|[{}=|/]", text), text
        assert 3 <= len(text.split()) <= 20, text
        assert not re.search(r"\b[Aa] (?=[aeio]|u(?!ni))", text), text
        assert not re.search(r"\b[Aa]n (?![aeio]|u(?!ni)|hour)", text), text


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_dev_shares_nothing_with_train(task: str) -> None:
    train = {word for text in texts(task, "train") for word in tokens(text)}
    content = {word for value in bank(task, "dev", frames=False) for word in tokens(value)} - FUNCTION_WORDS
    assert not content & train
    assert not bank(task, "train", frames=True) & bank(task, "dev", frames=True)
    unseen = texts(task, "dev") + texts(task, "test")
    assert not set(texts(task, "train")) & set(unseen)
    for frame in bank(task, "train", frames=True):
        pattern = re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(frame)), re.IGNORECASE)
        assert not [text for text in unseen if pattern.fullmatch(text)], frame


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_no_row_of_test_stands_in_dev(task: str) -> None:
    dev, test = ({frozenset((row["text_a"], row["text_b"])) for row in demo_rows(task, s)} for s in ("dev", "test"))
    assert not dev & test


@pytest.mark.parametrize(("task", "split"), LABELLED)
def test_length_does_not_decide(task: str, split: str) -> None:
    """Predicting each length's commonest label must stay near the majority's share."""
    by_length: dict[int, list[float]] = {}
    for row in demo_rows(task, split):
        size = len(row["text_a"].split()) + len((row["text_b"] or "").split())
        by_length.setdefault(size, []).append(round(row["label"]))
    best = sum(Counter(labels).most_common(1)[0][1] for labels in by_length.values()) / DEMO_SIZES[split]
    majority = Counter(label for labels in by_length.values() for label in labels).most_common(1)[0][1]
    assert best < majority / DEMO_SIZES[split] + 0.2


@pytest.mark.parametrize("split", ["train", "dev"])
def test_word_overlap_does_not_decide_quora(split: str) -> None:
    overlap: dict[int, list[float]] = {0: [], 1: []}
    for row in demo_rows("quora", split):
        overlap[row["label"]].append(
            len(tokens(row["text_a"]) & tokens(row["text_b"])) / len(tokens(row["text_a"] + row["text_b"]))
        )
    assert abs(mean(overlap[0]) - mean(overlap[1])) < 0.1
    assert min(overlap[1]) < 0.15  # duplicates in other words
    assert max(overlap[1]) > 0.5  # … and in nearly the same
    assert sum(value > 0.5 for value in overlap[0]) > 0.2 * len(overlap[0])


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_tail_does_not_decide_quora(split: str) -> None:
    tails: dict[int, list[bool]] = {0: [], 1: []}
    for row in demo_rows("quora", split):
        tails[row["label"]].append(any(tail in row["text_a"] + row["text_b"] for tail in demo._TAILS[split]))
    assert mean(tails[0]) == pytest.approx(mean(tails[1]), abs=0.12)


def test_errors_name_what_is_known() -> None:
    with pytest.raises(InputError, match=r"unknown task 'sstt' \(did you mean 'sst'\?\); known: quora, sst, sts"):
        demo_rows("sstt", "train")
    with pytest.raises(InputError, match="unknown split 'validation'"):
        demo_rows("sst", "validation")


def test_note_says_what_it_is() -> None:
    assert "invented" in DEMO_NOTE
    assert "no benchmark" in DEMO_NOTE
    assert "\n" not in DEMO_NOTE
