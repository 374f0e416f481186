"""The summary of the rows, against counts made by hand."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qabert.data.prompts import PromptEncoder
from qabert.data.sources import Dropped, TaskData
from qabert.data.summary import label_shares, summarise, summary_text
from qabert.tasks import QUORA, SST, STS, Task


def test_class_shares_are_named():
    assert label_shares(QUORA, [1, 0, 0, 0]) == {"not a paraphrase": 0.75, "paraphrase": 0.25}


def test_label_that_no_row_has_is_listed():
    assert label_shares(SST, [4])["neutral"] == 0


def test_regression_shares_are_of_rounded_labels():
    shares = label_shares(STS, [0, 0.4, 2.5, 5])
    assert shares == {"0": 0.5, "1": 0, "2": 0, "3": 0.25, "4": 0, "5": 0.25}


def test_steps_of_another_range_are_fifths_of_it():
    task = Task(name="t", problem="regression", question="?", range=(-1, 1))
    assert label_shares(task, [-1, 0.21]) == {"-1": 0.5, "-0.6": 0, "-0.2": 0, "0.2": 0.5, "0.6": 0, "1": 0}


@given(st.lists(st.floats(0, 5), min_size=1))
def test_shares_sum_to_one(labels):
    assert sum(label_shares(STS, labels).values()) == pytest.approx(1)


def test_lazy_column_of_a_dataset_is_read():
    column = datasets.Dataset.from_dict({"label": [0, 1, 1, 1]})["label"]
    assert label_shares(QUORA, column)["paraphrase"] == 0.75


@pytest.fixture
def summary(tokenizer):
    texts = ["ab", "ab cd", "ab " * 30]
    used = datasets.Dataset.from_dict(
        {"text_a": texts, "text_b": [None] * 3, "label": [0, 4, 4], "id": ["x", "y", "z"]}
    )
    dropped = [Dropped("sst.csv", 3, "sentiment", "the label is missing"), Dropped("sst.csv", 9, "sentence", "empty")]
    dropped.append(Dropped("sst.csv", 12, "sentence", "empty"))
    rows = {"sst": TaskData(datasets.DatasetDict(train=used), {"train": dropped}, {"train": 6})}
    features = {"sst": {"train": used.map(PromptEncoder("joint", tokenizer, SST, 16), batched=True)}}
    return summarise({"sst": SST}, rows, features)


def test_rows_are_counted(summary):
    facts = summary["sst"]["train"]
    assert (facts["read"], facts["used"], facts["truncated"]) == (6, 3, 1)


def test_lengths_are_those_of_the_features(summary):
    facts = summary["sst"]["train"]
    assert (facts["mean_tokens"], facts["max_tokens"]) == (7.7, 16)  # 3, 4 and 16 tokens


def test_dropped_rows_are_counted_by_reason_and_placed(summary):
    facts = summary["sst"]["train"]
    assert facts["dropped"] == {"sentiment: the label is missing": 1, "sentence: empty": 2}
    assert facts["dropped_rows"] == ["sst.csv, line 3", "sst.csv, line 9", "sst.csv, line 12"]


def test_summary_is_plain_enough_for_json(summary):
    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return isinstance(value, str | int | float) and not isinstance(value, np.generic)

    assert plain(summary)


def test_text_has_a_line_a_split_and_the_dropped_rows(summary):
    lines = summary_text(summary).splitlines()
    assert " ".join(lines[0].split()) == "task split rows tokens mean / max truncated label shares"
    assert lines[2].startswith("sst   train     3             8 / 16          1  very negative 33.3%")
    assert lines[2].endswith("very positive 66.7%")
    assert lines[3] == "dropped from sst train: 1 row(s), sentiment: the label is missing"
    assert lines[4] == "dropped from sst train: 2 row(s), sentence: empty"
    assert lines[5].split("; ")[1] == "sst.csv, line 9"
