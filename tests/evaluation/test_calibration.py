"""Temperatures: found where they are known, measured on rows they weren't fitted to, and carried by the model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from qabert.cli import main
from qabert.evaluation.calibration import best_temperature, log_loss, measure, scaled
from qabert.inference import Predictor
from qabert.model_config import read_config
from qabert.tasks import QUORA, SST, STS


def rows(task, count, temperature, seed=0):
    """Labels drawn from a model's true probabilities, and those of one that is `temperature` times too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 5 if task is SST else 1)) * 1.5
    if task is SST:
        true = np.array([rng.choice(5, p=p) for p in softmax(logits, -1)])
        return true, softmax(logits * temperature, -1)
    true = (rng.random(count) < expit(logits[:, 0])).astype(int)
    return true, expit(logits[:, 0] * temperature)


@pytest.mark.parametrize("task", [SST, QUORA], ids=lambda task: task.name)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_known_temperature_is_found(task, temperature):
    labels, answers = rows(task, 4000, temperature)
    assert best_temperature(task, labels, answers) == pytest.approx(temperature, rel=0.1)
    found = measure(task, labels, answers)
    if temperature != 1.0:
        assert found["ece_after"] < found["ece_before"] / 2
        assert found["log_loss_after"] < found["log_loss_before"]
    assert found["ece_after"] < 0.03


def test_what_comes_after_is_measured_on_other_rows():
    """Labels have nothing to do with answers here: fitted to the same rows, a temperature would seem to help more."""
    rng = np.random.default_rng(1)
    answers, labels = softmax(rng.normal(size=(20, 5)) * 4, -1), rng.integers(0, 5, 20)
    found = measure(SST, labels, answers)
    fitted = log_loss(SST, labels, scaled(SST, answers, found["temperature"]))
    assert found["log_loss_after"] > fitted
    with pytest.raises(ValueError, match="9 rows; calibration needs 10"):
        measure(SST, labels[:9], answers[:9])


@given(st.lists(st.floats(-20, 20), min_size=5, max_size=5), st.floats(0.1, 10))
def test_decisions_stay(logits, temperature):
    before = softmax(np.array([logits]), -1)
    after = scaled(SST, before, temperature)
    assert after == pytest.approx(softmax(np.array([logits]) / temperature, -1), abs=1e-6)
    assert after[0, before[0].argmax()] == pytest.approx(after.max())
    sure = expit(np.array(logits))
    assert scaled(QUORA, sure, temperature) == pytest.approx(expit(np.array(logits) / temperature), abs=1e-6)


def test_the_command_writes_a_model_that_answers_so(save_checkpoint, course_folder, tmp_path, capsys):
    folder = save_checkpoint(tmp_path / "m", priors={"quora": [0.7, 0.3]})
    main(["calibrate", folder, str(tmp_path / "c"), "--data", str(course_folder), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "temperature" in shown and "quora" in shown and "sts" not in shown
    found = read_config(str(tmp_path / "c")).temperatures
    assert sorted(found) == ["quora", "sst"]
    one, other = (Predictor.from_pretrained(str(tmp_path / name), "cpu") for name in ("m", "c"))
    for task, given_rows in ((SST, [("ab cd", None), ("ef", None)]), (QUORA, [("ab", "cd"), ("ef gh", "ij")])):
        before, after = (np.concatenate(list(p.answers(task.name, given_rows))) for p in (one, other))
        assert after == pytest.approx(scaled(task, before, found[task.name]), abs=1e-5)
    values = [np.concatenate(list(p.answers("sts", [("ab", "cd")]))) for p in (one, other)]
    assert values[0] == values[1]
    # Calibrated again, what it has isn't divided by twice.
    main(["calibrate", str(tmp_path / "c"), str(tmp_path / "d"), "--data", str(course_folder), "--device", "cpu"])
    assert read_config(str(tmp_path / "d")).temperatures == pytest.approx(found, rel=1e-2)


def test_what_can_not_be_calibrated(save_checkpoint, course_folder, tmp_path, capsys):
    folder = save_checkpoint(tmp_path / "m", tasks=[STS])
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", folder, str(tmp_path / "c"), "--data", str(course_folder)])
    assert ended.value.code == 2 and "no other task" in capsys.readouterr().err
    bad = save_checkpoint(tmp_path / "bad", temperatures={"sst": 0.0})
    with pytest.raises(SystemExit):
        main(["predict", bad, "--task", "sst", "ab"])
    assert "temperatures of task 'sst': 0.0" in capsys.readouterr().err
