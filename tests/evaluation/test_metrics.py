"""The metrics: right against sklearn and scipy, plain about what they can't judge, free of side effects."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import warnings

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from qabert.errors import InputError
from qabert.evaluation import hf_metrics
from qabert.evaluation.hf_metrics import load_metric, task_metrics
from qabert.evaluation.metrics import (
    METRIC_FUNCTIONS,
    majority_baseline,
    multitask_score,
)
from qabert.tasks import METRICS, PAPER_TASKS, QUORA, SST, STS, Task

CLASS_METRICS = ("accuracy", "macro_f1", "f1")
CORRELATIONS = ("pearson", "spearman")
ALL = CLASS_METRICS + CORRELATIONS


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pairs(values: st.SearchStrategy, min_size: int = 1) -> st.SearchStrategy:
    return st.lists(st.tuples(values, values), min_size=min_size, max_size=60)


@given(pairs(st.integers(0, 4)))
def test_class_metrics_equal_sklearn(rows):
    predicted, true = map(list, zip(*rows, strict=True))
    assert METRIC_FUNCTIONS["accuracy"](predicted, true) == pytest.approx(sk.accuracy_score(true, predicted))
    expected = sk.f1_score(true, predicted, average="macro", zero_division=0)
    assert METRIC_FUNCTIONS["macro_f1"](predicted, true) == pytest.approx(expected)


@given(pairs(st.integers(0, 1)))
def test_f1_equals_its_definition(rows):
    hits = sum(p and t for p, t in rows)
    misses = sum(p != t for p, t in rows)
    expected = 2 * hits / (2 * hits + misses) if hits or misses else 0.0
    predicted, true = zip(*rows, strict=True)
    assert METRIC_FUNCTIONS["f1"](predicted, true) == pytest.approx(expected)


@given(pairs(st.integers(-500, 500).map(lambda n: n / 100), min_size=3))
def test_correlations_equal_scipy_and_are_zero_where_it_has_nan(rows):
    predicted, true = np.array(rows).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {"pearson": stats.pearsonr(predicted, true)[0], "spearman": stats.spearmanr(predicted, true)[0]}
    for name, value in expected.items():
        assert METRIC_FUNCTIONS[name](predicted, true) == pytest.approx(0.0 if np.isnan(value) else value, abs=1e-9)


@given(pairs(st.floats(-1e6, 1e6, width=32)), st.sampled_from(CORRELATIONS))
def test_correlations_are_always_finite_and_silent(rows, name):
    predicted, true = np.array(rows, dtype=np.float32).T
    assert -1 <= METRIC_FUNCTIONS[name](predicted, true) <= 1


@settings(max_examples=15, deadline=None)
@given(pairs(st.integers(0, 1)), st.sampled_from(ALL))
def test_the_evaluate_metric_equals_the_function(rows, name):
    predicted, true = map(np.array, zip(*rows, strict=True))
    result = load_metric(name).compute(predictions=predicted, references=true)
    assert result == {name: METRIC_FUNCTIONS[name](predicted, true)}
    assert type(result[name]) is float


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("constant", [0.1, 0.0, 1e9])
def test_a_constant_or_single_row_correlates_to_zero(name, constant):
    function = METRIC_FUNCTIONS[name]
    assert function(np.full(7, constant), np.arange(7)) == 0.0
    assert function(np.arange(7), np.full(7, constant)) == 0.0
    assert function([constant], [1.0]) == 0.0
    assert function([1.0, 2.0], [5.0, 3.0]) == pytest.approx(-1)


def test_predictions_that_differ_by_rounding_alone_correlate_to_zero():
    nearly = np.array([3.0, np.nextafter(3.0, 4), 3.0, 3.0])
    assert METRIC_FUNCTIONS["pearson"](nearly, [0, 5, 1, 2]) == 0.0


@pytest.mark.parametrize("name", CLASS_METRICS)
@pytest.mark.parametrize("through", ["function", "evaluate"])
def test_a_probability_is_not_a_class(name, through):
    metric = load_metric(name).compute if through == "evaluate" else METRIC_FUNCTIONS[name]
    with pytest.raises(ValueError, match=r"predictions are not class indices: row 1 has 0\.2"):
        metric(predictions=[1.0, 0.2], references=[1, 0])
    with pytest.raises(ValueError, match=r"references are not class indices: row 0 has 0\.9"):
        metric(predictions=[1, 0], references=[0.9, 0])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("through", ["function", "evaluate"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_named(name, through, bad):
    metric = load_metric(name).compute if through == "evaluate" else METRIC_FUNCTIONS[name]
    with pytest.raises(ValueError, match=r"1 of 3 predictions are NaN or infinite, the first in row 2 .*diverged"):
        metric(predictions=[0.0, 1.0, bad], references=[0, 1, 1])
    with pytest.raises(ValueError, match=r"1 of 3 references are NaN or infinite, the first in row 0$"):
        metric(predictions=[0.0, 1.0, 0.0], references=[bad, 1, 1])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ([], [], "at least one row"),
        ([[0.1, 0.9]], [1], r"shape \(1, 2\)"),
        ([1, 0], [1], "2 predictions and 1 references"),
        (["yes"], ["no"], "not numbers"),
    ],
)
def test_what_no_metric_can_judge_is_refused(name, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        METRIC_FUNCTIONS[name](predictions, references)
    with pytest.raises(ValueError):
        load_metric(name).compute(predictions=predictions, references=references)


def test_f1_is_for_two_classes():
    with pytest.raises(ValueError, match="predictions: row 1 has class 2; expected 0 to 1"):
        METRIC_FUNCTIONS["f1"]([0, 2], [0, 1])
    assert METRIC_FUNCTIONS["f1"]([0, 0], [0, 0]) == 0.0


def test_every_metric_that_a_task_may_name_exists():
    named = {name for names in METRICS.values() for name in names}
    assert named == set(METRIC_FUNCTIONS) == set(hf_metrics.METRICS)
    assert [load_metric(name).name for name in ALL] == list(ALL)
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        load_metric("acuracy")


def test_combine_and_batches():
    combined = evaluate.combine([load_metric("accuracy"), load_metric("macro_f1"), load_metric("f1")])
    combined.add_batch(predictions=np.array([1, 0]), references=np.array([1, 1]))
    combined.add_batch(predictions=torch.tensor([1, 0]), references=torch.tensor([0, 0]))
    assert combined.compute() == {"accuracy": 0.5, "macro_f1": 0.5, "f1": 0.5}
    combined.add(prediction=1, reference=1)
    assert combined.compute() == {"accuracy": 1.0, "macro_f1": 1.0, "f1": 1.0}


def test_a_metric_can_be_used_again_after_an_error():
    metric = load_metric("accuracy")
    with pytest.raises(ValueError):
        metric.compute(predictions=[0.5], references=[1])
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}


def test_files_serve_several_processes_when_asked(tmp_path):
    metric = hf_metrics.Accuracy(keep_in_memory=False, cache_dir=str(tmp_path))
    assert metric.compute(predictions=[1, 0], references=[1, 1]) == {"accuracy": 0.5}


def test_task_metrics_are_the_tasks_own_in_order():
    assert list(task_metrics(SST, [0, 1], [0, 1])) == ["accuracy", "macro_f1"]
    assert task_metrics(QUORA, np.array([1, 0]), np.array([1.0, 1.0])) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}
    predicted, true = np.array([0.5, 4.0, 2.0], dtype=np.float32), np.array([0.0, 5.0, 3.0])
    expected = {"pearson": stats.pearsonr(predicted, true)[0], "spearman": 1.0}
    assert task_metrics(STS, predicted, true) == pytest.approx(expected)
    turned = Task(name="t", problem="binary", question="Is it?", metrics=("macro_f1", "accuracy"))
    assert list(task_metrics(turned, [0, 1], [0, 1])) == ["macro_f1", "accuracy"]


def test_task_metrics_name_the_task_and_the_row():
    with pytest.raises(ValueError, match="task 'sst': predictions: row 1 has class 5; expected 0 to 4"):
        task_metrics(SST, [0, 5], [0, 1])
    with pytest.raises(ValueError, match="task 'quora': references: row 0 has class -100; expected 0 to 1"):
        task_metrics(QUORA, [0], [-100])
    with pytest.raises(ValueError, match="task 'sts': 1 of 1 predictions are NaN"):
        task_metrics(STS, [np.nan], [1.0])
    with pytest.raises(ValueError, match="task 'sst': predictions have shape"):
        task_metrics(SST, np.zeros((2, 5)), [0, 1])


def test_twenty_thousand_rows_take_no_time():
    generator = np.random.default_rng(0)
    load_metric("accuracy").compute(predictions=[0], references=[0])
    start = time.perf_counter()
    task_metrics(SST, generator.integers(0, 5, 20_000), generator.integers(0, 5, 20_000))
    assert time.perf_counter() - start < 2  # about 0.15 s alone; the room is for a busy machine


def test_no_random_state_is_touched():
    before = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2], torch.get_rng_state()
    task_metrics(SST, [0, 1], [0, 1])
    after = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2], torch.get_rng_state()
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3])


def test_no_files_and_no_network(tmp_path):
    """Two processes that share a home (here a fresh one, in turn) can't meet in a file: there is none."""
    code = (
        "import socket, sys; socket.socket.connect = lambda *_: sys.exit('network')\n"
        "from qabert.evaluation.hf_metrics import task_metrics; from qabert.tasks import PAPER_TASKS\n"
        "for task in PAPER_TASKS.values(): task_metrics(task, [0, 1, 1], [0, 1, 0])\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "HF_HOME": str(home), "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1", "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert not list(home.rglob("metrics"))


def test_the_functions_do_not_import_evaluate():
    code = "import sys, qabert.evaluation.metrics; sys.exit(any(m in sys.modules for m in ('evaluate', 'torch')))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_multitask_score_is_the_mean():
    assert multitask_score({"sst": 0.5, "sts": 0.75, "quora": 0.25}) == 0.5
    with pytest.raises(ValueError, match="no score"):
        multitask_score({})
    with pytest.raises(ValueError, match="task 'sts' is nan"):
        multitask_score({"sst": 0.5, "sts": float("nan")})


def test_multitask_score_over_mixed_rows():
    metric = hf_metrics.MultitaskScore(PAPER_TASKS)
    rows = [("sts", 1.0, 0.0), ("sst", 4, 4), ("quora", 1, 0), ("sts", 2.0, 4.0), ("sst", 3, 2), ("quora", 0, 0)]
    for task, prediction, reference in rows[:3]:
        metric.add(prediction=prediction, reference=reference, tasks=task)
    tasks, predictions, references = zip(*rows[3:], strict=True)
    metric.add_batch(predictions=predictions, references=references, tasks=tasks)
    parts = {"sst_accuracy": 0.5, "sts_pearson": 1.0, "quora_accuracy": 0.5}
    assert metric.compute() == pytest.approx({"score": 2 / 3} | parts)
    with pytest.raises(InputError, match="unknown task 'qora'"):
        metric.compute(predictions=[1], references=[1], tasks=["qora"])
    with pytest.raises(ValueError, match="task 'sts' has no rows"):
        metric.compute(predictions=[1], references=[1], tasks=["sst"])


def test_majority_baseline():
    assert majority_baseline(SST, [3, 3, 1], [3, 1, 3, 0]) == {
        "accuracy": 0.5,
        "macro_f1": pytest.approx(2 / 9),
    }
    assert majority_baseline(QUORA, [0, 1, 1], [1, 0]) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}
    assert majority_baseline(QUORA, [1, 0], [0, 0])["accuracy"] == 1.0  # a tie goes to the first class
    assert majority_baseline(STS, [0.1, 0.2, 4.4], [1.0, 2.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0}
    with pytest.raises(ValueError, match="task 'sst': there are no training labels"):
        majority_baseline(SST, [], [1])
