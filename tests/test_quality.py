"""Examples until a score."""

from __future__ import annotations

import json

import pytest

from qabert.benchmark.quality import compare, quality, read_curve
from qabert.errors import InputError


def write_run(folder, scores, batch=8, complete=True, rate=4.0):
    folder.mkdir()
    history = []
    for number, score in enumerate(scores, 1):
        history += [{"step": number * 10, "loss": 1.0}]
        history += [{"step": number * 10, "eval_sts/pearson": score, "eval_score": score, "eval_loss": 1.0}]
    (folder / "arguments.yaml").write_text(
        f"per_device_train_batch_size: '{batch}'\ngradient_accumulation_steps: 2\nprocesses: 1\n"
    )
    if complete:
        values = {"history": [*history, {"final_sts/pearson": 0.99}], "train_examples_per_second": rate}
        (folder / "metrics.json").write_text(json.dumps(values))
    else:
        (folder / "checkpoint-10").mkdir()
        (folder / "checkpoint-10" / "trainer_state.json").write_text(json.dumps({"log_history": history[:2]}))
        (folder / "checkpoint-30").mkdir()
        (folder / "checkpoint-30" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder


def test_the_first_evaluation_that_reaches_a_score_counts(tmp_path):
    curve = read_curve(write_run(tmp_path / "a", [0.2, 0.5, 0.4, 0.7]))
    assert curve.examples == [160, 320, 480, 640]
    assert curve.reached("sts/pearson", 0.2) == 160
    assert curve.reached("sts/pearson", 0.45) == 320
    assert curve.reached("sts/pearson", 0.7) == 640
    assert curve.reached("sts/pearson", 0.71) is None
    assert curve.reached("sst/accuracy", 0.1) is None


def test_the_table_has_examples_seconds_and_how_many_times_more(tmp_path, capsys):
    slow = write_run(tmp_path / "slow", [0.1, 0.2, 0.5], batch=16, complete=False)
    fast = write_run(tmp_path / "fast", [0.5, 0.6, 0.7])
    quality([str(slow), str(fast), "--goal", "sts/pearson=0.5,0.65"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed[2] == ["sts/pearson", "≥", "0.5", "960", "–", "6.0", "160", "40"]
    assert printed[3] == ["sts/pearson", "≥", "0.65", "–", "–", "–", "480", "120"]


def test_an_empty_folder_and_a_goal_without_metric_are_told(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"none: holds no metrics.json and no checkpoint"):
        read_curve(tmp_path / "none")
    for goal in ("sts=0.8", "sts/pearson=high", "sts/pearson"):
        with pytest.raises(SystemExit):
            quality([str(tmp_path), "--goal", goal])
        assert "expected task/metric=score" in capsys.readouterr().err


def test_runs_that_never_evaluated_reach_nothing(tmp_path):
    curve = read_curve(write_run(tmp_path / "a", []))
    assert curve.examples == []
    assert compare([curve], {"sts/pearson": [0.1]}).splitlines()[-1].split()[-2:] == ["–", "–"]
