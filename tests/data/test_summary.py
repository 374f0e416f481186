"""The summary of the rows, against counts made by hand."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qabert.data.prompts import PromptEncoder
from qabert.data.sources import Dropped, TaskData
from qabert.data.summary import label_drift, label_shares, summarise, summary_text
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


# --- train and dev ----------------------------------------------------------------------------------------------------

MANY = Task(name="many", problem="classification", question="?", labels=tuple(f"label {n}" for n in range(60)))


def test_classes_that_differ_are_named_with_their_shares():
    train, dev = np.repeat([0, 1, 3], [300, 500, 200]), np.repeat([0, 1, 3], [20, 30, 50])  # two labels have no rows
    drift = label_drift(SST, train, dev)
    assert drift["distance"] == pytest.approx(0.3)
    assert drift["p"] < 1e-8
    assert drift["text"] == (
        "labels differ between train and dev: 'positive' is 20.0% of train and 50.0% of dev (total variation 0.30)"
    )


def test_regressions_that_differ_are_told_by_their_means():
    drift = label_drift(STS, np.linspace(0, 5, 501), np.linspace(1, 5, 201))
    assert drift["distance"] == pytest.approx(0.2, abs=0.01) and drift["p"] < 0.001
    assert drift["text"] == (
        "labels differ between train and dev: their mean is 2.5 in train and 3 in dev (Kolmogorov-Smirnov 0.20)"
    )


@pytest.mark.parametrize("rows", [1, 3, 10, 40, 500])
@pytest.mark.parametrize("task", [QUORA, SST, MANY, STS], ids=lambda task: task.name)
def test_samples_of_one_distribution_do_not_differ(task, rows):
    """Also small ones, and of labels so rare that chi-square's distribution would call a single row a difference."""
    rng = np.random.default_rng(rows)
    for _ in range(20):
        if task.range:
            train, dev = rng.beta(0.5, 1, 3000) * 5, rng.beta(0.5, 1, rows) * 5
        else:
            shares = rng.dirichlet(np.full(len(task.labels), 0.5))
            train, dev = (rng.choice(len(task.labels), size, p=shares) for size in (3000, rows))
        assert label_drift(task, train, dev) is None


@pytest.mark.parametrize(
    ("task", "train", "dev"),
    [
        (SST, [2] * 500, [2] * 50),  # one label
        (SST, [0, 4] * 50, [0, 4]),
        (SST, [2], [3]),
        (SST, [2], []),
        (STS, [1.5] * 500, [1.5] * 50),
        (STS, [1.5], [4.5]),
        (STS, [], [4.5]),
    ],
)
def test_what_shows_no_difference_is_none(task, train, dev):
    assert label_drift(task, train, dev) is None


def test_difference_has_to_be_certain_and_large():
    assert label_drift(QUORA, [0, 1] * 50_000, np.repeat([0, 1], [41_000, 59_000])) is None  # 0.09, p of nearly 0
    assert label_drift(QUORA, [0, 1] * 50_000, np.repeat([0, 1], [39_000, 61_000]))["distance"] == pytest.approx(0.11)
    assert label_drift(QUORA, [0, 1] * 50_000, np.repeat([0, 1], [7, 13])) is None  # 0.15, but of 20 rows
    assert label_drift(STS, np.linspace(0, 5, 100_001), np.linspace(0.4, 5, 50_001)) is None
    assert label_drift(STS, np.linspace(0, 5, 100_001), np.linspace(0.6, 5, 50_001))
    assert label_drift(STS, np.linspace(0, 5, 100_001), np.linspace(0.6, 5, 40)) is None


def test_label_that_train_hardly_has_is_a_difference():
    drift = label_drift(QUORA, np.repeat([0, 1], [99_990, 10]), np.repeat([0, 1], [70, 30]))
    assert drift["p"] < 0.001 and "'not a paraphrase' is 100.0% of train and 70.0% of dev" in drift["text"]


def test_another_label_in_each_split_is_a_difference():
    assert label_drift(SST, [0] * 400, [4] * 40)["distance"] == 1


def test_drift_is_the_same_each_time():
    """Also where the test deals rows anew and p is so near its limit that other deals could say otherwise."""
    train, dev = np.repeat([0, 1, 2], [500, 500, 10]), np.repeat([0, 1, 2], [20, 20, 5])
    found = [label_drift(SST, train, dev) for _ in range(10)]
    assert found[0] and all(drift == found[0] for drift in found)


def summary_of(task, labels):
    """The summary and its text of rows with these labels by split."""
    splits = {
        split: datasets.Dataset.from_dict({"label": own, "length": [5] * len(own), "truncated": [False] * len(own)})
        for split, own in labels.items()
    }
    data = TaskData(datasets.DatasetDict(splits), {split: [] for split in splits}, dict.fromkeys(splits, 0))
    found = summarise({task.name: task}, {task.name: data}, {task.name: splits})
    return found[task.name], summary_text(found).splitlines()


def test_summary_has_the_drift_beside_the_splits_and_a_line_below_the_table():
    found, lines = summary_of(SST, {"train": [0] * 400, "dev": [4] * 40, "test": [0] * 9})
    assert list(found) == ["train", "dev", "test", "drift"] and list(found["drift"]) == ["distance", "p", "text"]
    assert [type(value) for value in found["drift"].values()] == [float, float, str]
    assert lines[-1].startswith("sst: labels differ between train and dev: 'very negative' is 100.0% of train and 0.0%")
    assert len(lines) == 7  # heads, a line, three splits, the labels that train lacks, the drift


@pytest.mark.parametrize("labels", [{"train": [0, 1] * 20, "dev": [1, 0]}, {"train": [0] * 400}, {"dev": [4] * 40}])
def test_summary_without_a_difference_has_no_drift(labels):
    found, lines = summary_of(SST, labels)
    assert list(found) == list(labels)
    assert len(lines) == 2 + len(labels) + ("train" in labels)
    if "train" in labels:
        assert lines[-1].startswith("sst: no train row has the label '") and lines[-1].endswith("': it can't be learnt")
        assert "'very negative'" not in lines[-1] and "'very positive'" in lines[-1]


# --- the summary ------------------------------------------------------------------------------------------------------


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
    assert lines[3] == "sst: no train row has the label 'negative', 'neutral', 'positive': it can't be learnt"
    assert lines[4] == "dropped from sst train: 1 row(s), sentiment: the label is missing"
    assert lines[5] == "dropped from sst train: 2 row(s), sentence: empty"
    assert lines[6].split("; ")[1] == "sst.csv, line 9"
