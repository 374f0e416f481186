"""Losses against formulas written down in numpy, and the scale of a regression."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qabert.modeling.losses import BOUND, LOSSES, activate, denormalise, normalise, with_prior
from qabert.tasks import PROBLEMS

LOW, HIGH = 0.0, 5.0
logit_lists = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=8)
ranges = st.tuples(st.floats(-1e3, 1e3), st.floats(1e-2, 1e3)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def test_every_problem_has_a_loss():
    assert set(LOSSES) == set(PROBLEMS)


@given(st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=6), st.data())
def test_classification_loss_is_the_mean_cross_entropy(logits, data):
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(logits), max_size=len(logits)))
    expected = np.mean([np.logaddexp.reduce(row) - row[label] for row, label in zip(logits, labels, strict=True)])
    loss = LOSSES["classification"](tensor(logits), torch.tensor(labels), None)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@given(logit_lists, st.data())
def test_binary_loss_is_the_mean_binary_cross_entropy(logits, data):
    labels = data.draw(st.lists(st.integers(0, 1), min_size=len(logits), max_size=len(logits)))
    expected = np.mean([np.logaddexp(0, -x if y else x) for x, y in zip(logits, labels, strict=True)])
    loss = LOSSES["binary"](tensor(logits)[:, None], torch.tensor(labels), None)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@given(logit_lists, st.data(), ranges)
def test_regression_loss_is_the_mean_squared_error_in_the_normalised_range(logits, data, bounds):
    low, high = bounds
    labels = data.draw(st.lists(st.floats(low, high), min_size=len(logits), max_size=len(logits)))
    wanted = ((np.array(labels) - low) / (high - low) * 2 - 1) * math.sqrt(3)
    expected = np.mean((np.array(logits) - wanted) ** 2)
    loss = LOSSES["regression"](tensor(logits)[:, None], tensor(labels), bounds)
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_regression_labels_may_be_doubles():
    """Rows of a dataset are; the loss has the precision of the logits."""
    loss = LOSSES["regression"](torch.zeros(2, 1), tensor([0, 5]), (LOW, HIGH))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(3)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_one_row_has_a_loss(problem):
    logits = torch.zeros(1, 3 if problem == "classification" else 1)
    expected = {"classification": math.log(3), "binary": math.log(2), "regression": 3.0}[problem]
    loss = LOSSES[problem](logits, torch.tensor([0]), (LOW, HIGH))
    assert loss.shape == () and loss.item() == pytest.approx(expected)


def test_evenly_spread_labels_start_near_one():
    """What a head at zero pays; the cross entropies start at 1.6 and 0.7."""
    loss = LOSSES["regression"](torch.zeros(5001, 1), torch.linspace(LOW, HIGH, 5001), (LOW, HIGH))
    assert loss.item() == pytest.approx(1, abs=1e-3)


@given(st.floats(0, 1), ranges)
def test_denormalise_undoes_normalise(share, bounds):
    low, high = bounds
    value = min(low + share * (high - low), high)
    again = denormalise(normalise(tensor([value]), low, high), low, high).item()
    assert again == pytest.approx(value, abs=1e-9 * max(1, abs(low), abs(high)))


@given(ranges)
def test_bounds_are_mapped_to_the_square_root_of_three(bounds):
    assert normalise(tensor(bounds), *bounds).tolist() == pytest.approx([-BOUND, BOUND])
    assert pytest.approx(math.sqrt(3)) == BOUND


@given(st.floats(-1e6, 1e6), ranges)
def test_predictions_stay_in_the_range(value, bounds):
    low, high = bounds
    found = denormalise(tensor([value]), low, high).item()
    assert low <= found <= high
    if abs(value) > 2:
        assert found == (high if value > 0 else low)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=5))
def test_class_answers_are_probabilities(logits):
    found = activate(tensor([logits]), "classification", None)
    assert found.shape == (1, len(logits)) and found.dtype == torch.float32
    assert found.numpy()[0] == pytest.approx(np.exp(np.array(logits) - np.logaddexp.reduce(logits)), abs=1e-5)


@given(st.floats(-30, 30))
def test_binary_answer_is_the_probability_of_the_second_label(logit):
    found = activate(tensor([[logit]]), "binary", None)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)


@pytest.mark.parametrize(("logit", "value"), [(0.0, 2.5), (math.sqrt(3), 5.0), (-9.0, 0.0), (math.sqrt(3) / 2, 3.75)])
def test_regression_answer_is_in_the_users_unit(logit, value):
    assert activate(tensor([[logit]]), "regression", (LOW, HIGH)).tolist() == pytest.approx([value])


def test_half_precision_logits_are_answered_in_single():
    assert activate(torch.zeros(1, 1, dtype=torch.bfloat16), "binary", None).dtype == torch.float32


@pytest.mark.parametrize("problem", ["classification", "binary"])
def test_with_prior_is_bayes_rule(problem):
    # Two classes with known densities: the model trained on even shares answers f1 / (f0 + f1).
    prior, densities = np.array([0.8, 0.2]), np.array([0.3, 1.7])
    even = np.log(densities)
    logits = tensor([even.tolist()]) if problem == "classification" else tensor([[even[1] - even[0]]])
    expected = prior[1] * densities[1] / (prior * densities).sum()
    answer = activate(with_prior(logits, problem, prior.tolist()), problem, None)
    assert (answer[0, 1] if problem == "classification" else answer[0]).item() == pytest.approx(expected, rel=1e-5)
