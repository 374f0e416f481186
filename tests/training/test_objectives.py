"""Softer labels, factors of a task's loss: against formulas written down in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from qabert.errors import InputError
from qabert.modeling.losses import LOSSES
from qabert.tasks import QUORA, SST, STS, Task
from qabert.training.arguments import RunArguments
from qabert.training.objectives import Objective
from qabert.training.recipes import parse

NAMES = Task(name="names", problem="classification", question="Which?", labels=("a", "b", "c", "d", "e"))
shares = st.floats(0, 0.9)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), shares, shares)
def test_targets_are_probabilities_and_the_label_keeps_what_is_not_given_away(labels, smoothing, ordinal):
    found = Objective(label_smoothing=smoothing, ordinal_smoothing=ordinal).targets(SST, torch.tensor(labels)).numpy()
    if not smoothing and not ordinal:
        assert found.tolist() == labels
        return
    assert found.shape == (len(labels), 5)
    assert found.sum(-1) == pytest.approx(np.ones(len(labels)), abs=1e-6)
    for row, label in zip(found, labels, strict=True):
        expected = np.full(5, smoothing / 5)
        near = [n for n in (label - 1, label + 1) if 0 <= n < 5]
        for n in near:
            expected[n] += (1 - smoothing) * ordinal / 2
        expected[label] += (1 - smoothing) * (1 - len(near) * ordinal / 2)
        assert row == pytest.approx(expected, abs=1e-6)


def test_grades_are_smoothed_only_where_labels_are_ordered():
    labels = torch.tensor([0, 3])
    assert Objective(ordinal_smoothing=0.3).targets(NAMES, labels) is labels
    assert Objective(ordinal_smoothing=0.3).targets(QUORA, labels.clamp(max=1)).tolist() == [0, 1]


def test_label_smoothing_is_torchs_own():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    soft = Objective(label_smoothing=0.2).targets(SST, labels)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    assert LOSSES["classification"](logits, soft, None).item() == pytest.approx(expected.item(), abs=1e-6)
    assert Objective(label_smoothing=0.2).targets(QUORA, torch.tensor([0, 1])).tolist() == pytest.approx([0.1, 0.9])
    values = torch.tensor([0.5, 5.0])
    assert Objective(label_smoothing=0.2).targets(STS, values) is values  # a value has no others to share with


def test_a_teachers_answer_is_mixed_with_the_label():
    mixed = Objective().targets
    answer = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0]] * 2)
    found = mixed(SST, torch.tensor([3, 3]), answer, torch.tensor([0.25, 1.0]))
    assert found.tolist()[0] == pytest.approx([0.025, 0.05, 0.075, 0.85, 0.0])
    assert found[1].tolist() == pytest.approx(answer[1].tolist())
    assert mixed(QUORA, torch.tensor([1]), torch.tensor([0.2]), torch.tensor([0.25])).item() == pytest.approx(0.8)
    assert mixed(STS, torch.tensor([4.0]), torch.tensor([2.0]), torch.tensor([0.25])).item() == pytest.approx(3.5)


@pytest.mark.parametrize("task", [SST, QUORA, STS], ids=lambda task: task.problem)
def test_the_loss_of_a_mixed_target_is_the_mixed_loss_but_for_a_constant(task):
    """Its gradient is, which is what training sees."""
    torch.manual_seed(0)
    logits = torch.randn(4, task.num_outputs, requires_grad=True)
    labels = {"sst": torch.tensor([0, 4, 2, 1]), "quora": torch.tensor([0, 1, 1, 0]), "sts": torch.rand(4) * 5}
    teacher = {"sst": torch.rand(4, 5).softmax(-1), "quora": torch.rand(4), "sts": torch.rand(4) * 5}
    loss = LOSSES[task.problem]
    target = Objective().targets(task, labels[task.name], teacher[task.name], torch.full((4,), 0.3))
    (mixed,) = torch.autograd.grad(loss(logits, target, task.range), logits)
    parts = 0.7 * loss(logits, labels[task.name], task.range) + 0.3 * loss(logits, teacher[task.name], task.range)
    (apart,) = torch.autograd.grad(parts, logits)
    torch.testing.assert_close(mixed, apart)


def test_factors_scale_a_tasks_loss_in_training_and_leave_evaluation_alone(make_trainer):
    sgd = {"optim": "sgd", "learning_rate": 1e-12}
    logs = []
    for objective in (Objective(), Objective(loss_weights={"sst": 3.0})):
        trainer = make_trainer(trainer=sgd, objective=objective, folder=f"out{len(logs)}")
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        logs.append([(next(key for key in entry if "/" in key), entry["loss"]) for entry in entries])
        logs.append(trainer.evaluate()["eval_sst/loss"])
    for (name, plain), (_, weighted) in zip(logs[0], logs[2], strict=True):
        assert weighted == pytest.approx(plain * (3 if name == "sst/loss" else 1), rel=1e-4)
    assert logs[1] == pytest.approx(logs[3], rel=1e-6)


def test_the_keys_reach_the_objective(make_trainer):
    """`label_smoothing_factor` is the Trainer's, whose own loss isn't used: it would be ignored without a word."""
    args = parse(["--label_smoothing_factor", "0.1", "--loss_weights", "sst=2,quora=0.5"])
    assert args.training_arguments().label_smoothing_factor == 0.1
    assert args.loss_weights == {"sst": 2.0, "quora": 0.5}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss_weights": "sst=0"}, "key 'loss_weights', task 'sst': 0; expected a number over 0"),
        ({"loss_weights": "sst=nan"}, "expected a number over 0"),
        ({"loss_weights": "sst"}, "expected a number by task, such as sst=2"),
        ({"ordinal_smoothing": 1.0}, "expected a number from 0.0 to 0.99"),
        ({"teacher_weight": 0.7}, "key 'teacher_weight' is of 'teachers'"),
    ],
)
def test_what_can_not_be_is_said(keys, message):
    with pytest.raises(InputError, match=message):
        RunArguments(**keys)


@pytest.mark.parametrize(
    ("keys", "word"),
    [({"ordinal_smoothing": 0.2, "tasks": "sts"}, "ordered"), ({"both_orders": True, "tasks": "sst"}, "symmetric")],
)
def test_a_key_that_no_task_can_use_is_an_error(keys, word):
    with pytest.raises(InputError, match=rf"none of the tasks \(s..\) is declared '{word}: true'"):
        RunArguments(**keys).load_tasks()
    RunArguments(**keys | {"tasks": "sst,sts"}).load_tasks()


def test_a_factor_of_no_task_is_an_error():
    with pytest.raises(InputError, match=r"key 'loss_weights'.*'stt'.*did you mean"):
        RunArguments(loss_weights={"stt": 2}).load_tasks()
