"""Answers to rows, their scores, and the table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from qabert import answers, inference
from qabert.data.sources import load_task
from qabert.evaluation.scores import answer_rows, result_table, score_answers
from qabert.inference import Predictor
from qabert.tasks import PAPER_TASKS, QUORA, SST, STS


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_pretrained(trained, "cpu")


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_answers_stand_in_the_rows_order_whatever_the_batch(predictor, course_folder, name, monkeypatch):
    rows = load_task(PAPER_TASKS[name], course_folder, ("dev",)).splits["dev"]
    one_by_one = np.concatenate([answer_rows(predictor, name, [row]) for row in rows])
    monkeypatch.setattr(inference, "CHUNK", 7)
    for batch_size in (1, 3, 64):
        np.testing.assert_allclose(answer_rows(predictor, name, rows, batch_size), one_by_one, atol=1e-5)
    assert len(np.unique(one_by_one.round(5), axis=0)) > 5  # the rows can be told apart


def test_scores_of_a_classification():
    answers = np.random.default_rng(0).dirichlet(np.ones(5), 50)
    labels = np.random.default_rng(1).integers(0, 5, 50)
    scores = score_answers(SST, answers, labels.tolist())
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, answers.argmax(1)))
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, answers.argmax(1), average="macro"))


def test_scores_of_a_binary_task():
    answers = np.random.default_rng(0).random(50)
    labels = np.random.default_rng(1).integers(0, 2, 50)
    scores = score_answers(QUORA, answers, labels)
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, answers > 0.5))
    assert scores["f1"] == pytest.approx(f1_score(labels, answers > 0.5))


def test_scores_of_a_regression():
    answers = np.random.default_rng(0).random(50) * 5
    labels = answers + np.random.default_rng(1).normal(size=50)
    scores = score_answers(STS, answers, labels)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(answers, labels).statistic)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(answers, labels).statistic)


def test_half_a_probability_is_the_first_label():
    np.testing.assert_array_equal(answers.decide(QUORA, np.array([0.5, np.nextafter(0.5, 1)])), [0, 1])


SCORES = {
    "sst": {"accuracy": 0.5, "macro_f1": 0.25},
    "sts": {"pearson": -0.125, "spearman": 0.0},
    "quora": {"accuracy": 0.75, "f1": 1.0},
}


def test_the_table_has_a_line_per_metric_and_the_mean_of_first_metrics():
    majority = {task: dict.fromkeys(scores, 0.0) for task, scores in SCORES.items()}
    lines = result_table(PAPER_TASKS, {"majority": majority, "untrained": None, "trained": SCORES}).splitlines()
    assert lines[0].split() == ["task", "metric", "(dev)", "majority", "trained"]  # an empty column is left out
    assert [line.split() for line in lines[2:]] == [
        ["sst", "accuracy", "0.000", "0.500"],
        ["sst", "macro_f1", "0.000", "0.250"],
        ["sts", "pearson", "0.000", "-0.125"],
        ["sts", "spearman", "0.000", "0.000"],
        ["quora", "accuracy", "0.000", "0.750"],
        ["quora", "f1", "0.000", "1.000"],
        ["mean", "first", "metrics", "0.000", f"{(0.5 - 0.125 + 0.75) / 3:.3f}"],
    ]
    assert len({len(line) for line in lines}) == 1  # aligned


def test_the_table_names_the_split_and_only_the_chosen_tasks():
    text = result_table({"sts": STS}, {"model": SCORES}, "train")
    assert "(train)" in text
    assert "sst" not in text
    assert text.splitlines()[-1].endswith("-0.125")
