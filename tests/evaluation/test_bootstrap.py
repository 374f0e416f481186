"""The paired bootstrap against a plain one, and whether its intervals hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from qabert.answers import decide
from qabert.evaluation.metrics import METRIC_FUNCTIONS
from qabert.evaluation.report import bootstrap
from qabert.evaluation.report.bootstrap import Difference, paired_bootstrap
from qabert.tasks import QUORA, SST, STS, Task

CASES = [(SST, "accuracy"), (SST, "macro_f1"), (QUORA, "accuracy"), (QUORA, "f1"), (QUORA, "macro_f1"),
         (STS, "pearson"), (STS, "spearman")]  # fmt: skip


def draw(task: Task, rows: int, seeds: int, rng: np.random.Generator):
    """Labels, and answers that have something to do with them; values with many ties."""
    if task.problem == "regression":
        labels = rng.integers(0, 11, rows) / 2
        return labels, [np.round(labels + rng.normal(0, 2, rows)) for _ in range(seeds)]
    classes = len(task.labels)
    labels = rng.integers(0, classes, rows)
    answers = [rng.dirichlet(np.ones(classes), rows) + 0.3 * np.eye(classes)[labels] for _ in range(seeds)]
    answers = [one / one.sum(-1, keepdims=True) for one in answers]
    return labels, [one[:, 1] for one in answers] if task.problem == "binary" else answers


def plain_bootstrap(task: Task, metric: str, labels, of_a, of_b, samples: int, seed: int) -> np.ndarray:
    """Differences of all samples, row by row, with the metrics that everything else uses."""
    score, differences = METRIC_FUNCTIONS[metric], []
    for rows in np.random.default_rng(seed).integers(len(labels), size=(samples, len(labels))):
        a, b = ([score(decide(task, one)[rows], labels[rows]) for one in side] for side in (of_a, of_b))
        differences.append(np.mean(b) - np.mean(a))
    return np.array(differences)


@pytest.mark.parametrize(("task", "metric"), CASES)
@pytest.mark.parametrize("rows", [4, 37])  # of 4 rows many samples are constant, or lack a class
def test_it_is_the_plain_bootstrap(task, metric, rows):
    rng = np.random.default_rng(rows)
    labels, of_a = draw(task, rows, 2, rng)
    of_b = draw(task, rows, 2, rng)[1]
    found = paired_bootstrap(task, metric, labels, of_a, of_b, samples=50, seed=5)
    reference = plain_bootstrap(task, metric, labels, of_a, of_b, 50, 5)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(reference, [0.025, 0.975])), abs=1e-9)
    scores = [METRIC_FUNCTIONS[metric](decide(task, one), labels) for one in (*of_a, *of_b)]
    assert found.by_seed == pytest.approx((scores[2] - scores[0], scores[3] - scores[1]))
    assert found.mean == pytest.approx(np.mean(found.by_seed))
    below, above = np.sum(reference <= 1e-12), np.sum(reference >= -1e-12)
    assert found.p_value == pytest.approx(min(1, 2 * (1 + min(below, above)) / 51), abs=0.08)


@pytest.mark.parametrize(("task", "metric"), [(QUORA, "f1"), (STS, "spearman")])
def test_what_is_held_at_once_changes_nothing(task, metric, monkeypatch):
    rng = np.random.default_rng(3)
    labels, (a, b) = draw(task, 30, 2, rng)
    whole = paired_bootstrap(task, metric, labels, [a], [b], samples=100)
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * 30)
    parts = paired_bootstrap(task, metric, labels, [a], [b], samples=100)
    assert (parts.low, parts.high, parts.p_value) == pytest.approx((whole.low, whole.high, whole.p_value))


def test_the_seed_decides():
    labels, (a, b) = draw(QUORA, 60, 2, np.random.default_rng(0))
    first, again, other = (paired_bootstrap(QUORA, "f1", labels, [a], [b], seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_the_other_way_round_it_is_the_negative():
    labels, (a, b) = draw(STS, 60, 2, np.random.default_rng(0))
    one, other = paired_bootstrap(STS, "pearson", labels, [a], [b]), paired_bootstrap(STS, "pearson", labels, [b], [a])
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))


@pytest.mark.parametrize(("task", "metric", "least"), [(QUORA, "accuracy", 0.90), (STS, "spearman", 0.89)])
def test_the_interval_covers_0_about_95_times_of_100_where_there_is_no_difference(task, metric, least):
    rng, covered, small = np.random.default_rng(11), 0, 0
    for _ in range(200):
        labels, (a, b) = draw(task, 150, 2, rng)
        found = paired_bootstrap(task, metric, labels, [a], [b], samples=200)
        covered += found.low <= 0 <= found.high
        small += found.p_value < 0.5
    assert least <= covered / 200 <= 0.985
    assert 0.4 <= small / 200 <= 0.6  # under the null a p-value is uniform


def test_pairing_makes_the_interval_narrow():
    rng = np.random.default_rng(2)
    labels, (a,) = draw(QUORA, 400, 1, rng)
    near = np.where(np.arange(400) < 8, 1 - a, a)  # differs in 8 rows
    found = paired_bootstrap(QUORA, "accuracy", labels, [a], [near])
    assert found.high - found.low <= 0.03  # unpaired it would be some 0.13


def test_it_sees_an_evident_difference():
    rng = np.random.default_rng(4)
    labels, noisy = draw(STS, 200, 3, rng)
    better = [labels + rng.normal(0, 0.2, 200) for _ in range(3)]
    found = paired_bootstrap(STS, "pearson", labels, noisy, better)
    assert found.low > 0.2
    assert found.p_value < 0.01
    assert found.shown


def test_spread_wants_three_seeds_and_a_shown_difference_wants_their_agreement():
    three = Difference(0.02, 0.01, 0.03, 0.001, (0.01, 0.02, 0.03))
    assert three.spread == pytest.approx(0.01)
    assert Difference(0.02, 0.01, 0.03, 0.001, (0.01, 0.03)).spread is None
    assert three.shown
    assert not Difference(0.02, 0.01, 0.03, 0.001, (-0.01, 0.02, 0.05)).shown
    assert not Difference(0.02, -0.01, 0.05, 0.2, (0.01, 0.02, 0.03)).shown


def test_seeds_have_to_pair():
    labels, (a, b) = draw(QUORA, 10, 2, np.random.default_rng(0))
    for of_a, of_b, samples in (([a], [a, b], 10), ([], [], 10), ([a], [b], 0)):
        with pytest.raises(ValueError, match="expected as many seeds of both"):
            paired_bootstrap(QUORA, "accuracy", labels, of_a, of_b, samples=samples)
    with pytest.raises(ValueError, match="9 predictions and 10 references"):
        paired_bootstrap(QUORA, "accuracy", labels, [a], [b[:9]])
