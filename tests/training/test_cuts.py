"""One global batch, cut three ways: 2 processes, 2 accumulation steps, or not at all.  The training is the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from qabert.training.recipes import parse
from qabert.training.run import train

ROOT = Path(__file__).parents[2]
STEPS = 50


@pytest.fixture(scope="module")
def runs(tmp_path_factory, encoder_path, course_folder, torchrun):
    """Folders of the three runs, and the largest differences between them."""
    folder = tmp_path_factory.mktemp("cuts")
    words = (
        f"--data {course_folder} --encoder {encoder_path} --format joint --max_length 64 --use_cpu true "
        f"--disable_tqdm true --num_train_epochs 9 --max_steps {STEPS} --learning_rate 1e-3 --logging_steps 1 "
        "--save_strategy no --eval_strategy no --load_best_model_at_end false --head_dropout 0 --dropout 0 "
        "--head_blocks 2 --per_device_eval_batch_size 4"
    ).split()
    size = "--per_device_train_batch_size"
    train(parse([*words, "--output_dir", str(folder / "whole"), size, "8"]))
    accumulate = [size, "4", "--gradient_accumulation_steps", "2"]
    train(parse([*words, "--output_dir", str(folder / "accumulated"), *accumulate]))
    place = ["--output_dir", folder / "distributed"]
    done = torchrun("scripts/train.py", *words, "--ddp_backend", "gloo", *place, size, "4")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["accumulated", "distributed"])
def test_fifty_steps(cut, runs):
    whole, other = metrics(runs / "whole"), metrics(runs / cut)
    curves = [[entry["loss"] for entry in run["history"] if "loss" in entry] for run in (whole, other)]
    assert len(curves[0]) == len(curves[1]) == STEPS
    assert np.abs(np.subtract(*curves)).max() < 1e-5
    first, second = (load_file(runs / name / "model.safetensors") for name in ("whole", cut))
    assert max(np.abs(value - second[name]).max() for name, value in first.items()) < 1e-4
    for name, scores in whole["scores"].items():
        for key, value in scores.items():
            close = 2e-3 if key in ("pearson", "spearman") else 1e-6  # answers differ little: that magnifies rounding
            assert other["scores"][name][key] == pytest.approx(value, abs=close), (name, key)
