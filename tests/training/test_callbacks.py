"""The sampler is told its epoch; a log is one readable line."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from qabert.data.sampling import TaskBatchSampler, TaskRows
from qabert.training.callbacks import ScoreLines, StepSeeds, format_log


def state(**values):
    return SimpleNamespace(**({"is_world_process_zero": True, "global_step": 3, "epoch": 0.5, "max_steps": 9} | values))


@pytest.mark.parametrize(("epoch", "expected"), [(None, 0), (0, 0), (1.0, 1), (1.96, 1), (2.25, 2)])
def test_the_sampler_is_told_the_epoch_also_in_its_middle(epoch, expected):
    rows = TaskRows(lengths=np.ones(4), strata=np.zeros(4))
    sampler = TaskBatchSampler({"a": rows}, batch_size=2)
    StepSeeds(sampler).on_epoch_begin(None, state(epoch=epoch), None)
    assert sampler.epoch == expected


def test_a_training_log_is_one_line():
    line = format_log({"loss": 1.23456, "learning_rate": 5e-5, "sst/loss": 1.5, "epoch": 0.5}, 12, 0.5)
    assert line == "train · step 12 · epoch 0.50 · loss 1.235 · learning_rate 5.0e-05 · sst loss 1.5"


def test_an_evaluations_log_leaves_timings_and_losses_by_task_out():
    logs = {
        "eval_sst/accuracy": 0.5, "eval_sst/loss": 1.5, "eval_loss": 1.25, "eval_score": 0.5, "eval_runtime": 1.0,
        "eval_samples_per_second": 9.0, "eval_steps_per_second": 3.0, "epoch": 1.0, "note": "text",
    }  # fmt: skip
    assert format_log(logs, 20, 1.0) == "eval · step 20 · epoch 1.00 · sst accuracy 0.5 · loss 1.25 · score 0.5"


def test_without_an_epoch():
    assert format_log({"final_score": 0.25}, 0, None) == "final · step 0 · epoch 0.00 · score 0.25"


@pytest.mark.parametrize("disable", [True, False])
def test_a_whole_run_of_events_with_and_without_bars(disable, capsys):
    lines = ScoreLines(disable)
    lines.on_log(None, state(), None, {"untrained_score": 0.5})
    lines.on_train_begin(None, state(), None)
    lines.on_step_end(None, state(), None)
    lines.on_log(None, state(), None, {"loss": 1.0})
    lines.on_prediction_step(None, state(), None, eval_dataloader=[1, 2])
    lines.on_predict(None, state(), None)
    lines.on_evaluate(None, state(), None)
    lines.on_log(None, state(), None, {})
    lines.on_train_end(None, state(), None)
    lines.on_log(None, state(), None, {"final_score": 0.5})
    out, err = capsys.readouterr()
    assert [line.split(" ·")[0] for line in out.splitlines()] == ["untrained", "train", "final"]
    assert bool(err) is not disable


def test_other_processes_write_nothing(capsys):
    lines = ScoreLines()
    for event in ("on_train_begin", "on_step_end", "on_prediction_step", "on_evaluate", "on_train_end"):
        getattr(lines, event)(None, state(is_world_process_zero=False), None)
    lines.on_log(None, state(is_world_process_zero=False), None, {"loss": 1.0})
    assert capsys.readouterr() == ("", "")
