"""Two real processes train what one process trains with twice the batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from qabert.training.recipes import parse
from qabert.training.run import train

ROOT = Path(__file__).parents[2]
TASKS = ("sst", "sts", "quora")


@pytest.fixture(scope="module")
def words(encoder_path, course_folder):
    return (
        f"--data {course_folder} --encoder {encoder_path} --format separate --max_length 64 --head_blocks 1 "
        "--use_cpu true --disable_tqdm true --num_train_epochs 2 --learning_rate 1e-3 "
        "--optim sgd --max_grad_norm 0 --weight_decay 0 --logging_steps 1 --save_strategy steps --save_steps 5 "
        "--eval_strategy steps --eval_steps 5 --load_best_model_at_end false --save_total_limit 20 "
        "--head_dropout 0 --dropout 0 --per_device_eval_batch_size 4"
    ).split()


# One launch, two runs: a whole one, and one that goes on from the whole one's checkpoint inside its second epoch.
WORKER = """
import runpy, sys
words, (first, second, checkpoint) = sys.argv[1:-3], sys.argv[-3:]
for rest in (["--output_dir", first], ["--output_dir", second, "--resume", checkpoint]):
    sys.argv = ["train.py", *words, *rest]
    runpy.run_path("scripts/train.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, words, torchrun):
    """Folder with `one` (one process), `two` and `resumed` (two processes), and what the launcher printed."""
    folder = tmp_path_factory.mktemp("distributed")
    worker = folder / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    train(parse([*words, "--output_dir", str(folder / "one"), "--per_device_train_batch_size", "8"]))
    # 20 steps an epoch: checkpoint 25 is inside the second one
    places = [str(folder / "two"), str(folder / "resumed"), str(folder / "two" / "checkpoint-25")]
    done = torchrun(worker, *words, "--ddp_backend", "gloo", "--per_device_train_batch_size", "4", *places)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done


def held(folder):
    state = json.loads((folder / "checkpoint-40" / "trainer_state.json").read_text(encoding="utf-8"))
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8")), state["log_history"]


def test_losses_gradients_and_weights_are_those_of_one_process(runs):
    folder, _ = runs
    (one, one_log), (two, two_log) = held(folder / "one"), held(folder / "two")
    assert one["steps"] == two["steps"] == 40
    curves = [[entry for entry in log if "loss" in entry] for log in (one_log, two_log)]
    assert len(curves[0]) == len(curves[1]) == 40
    for a, b in zip(*curves, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert [key for key in a if "/" in key] == [key for key in b if "/" in key]
        for key in (key for key in a if key.endswith("/loss")):
            assert a[key] == pytest.approx(b[key], abs=1e-4)
    first, second = (load_file(folder / name / "model.safetensors") for name in ("one", "two"))
    for name, value in first.items():
        assert np.allclose(value, second[name], atol=1e-5), name


def test_every_row_is_scored_once_although_the_processes_fill_their_last_batches_up(runs):
    folder, _ = runs
    (one, _), (two, _) = held(folder / "one"), held(folder / "two")
    for name in TASKS:
        for key, value in one["scores"][name].items():  # the values differ little: a correlation magnifies rounding
            assert two["scores"][name][key] == pytest.approx(
                value, abs=2e-3 if key in ("pearson", "spearman") else 1e-4
            ), (name, key)
        rows = [(folder / run / "predictions" / f"{name}-dev.csv").read_text().splitlines() for run in ("one", "two")]
        assert [row.split(",")[0] for row in rows[0]] == [row.split(",")[0] for row in rows[1]]
    for a, b in zip(one["history"], two["history"], strict=True):
        for key in a:
            if "/" in key or key in ("eval_loss", "eval_score"):
                close = 2e-3 if key.endswith(("pearson", "spearman", "score")) else 1e-4
                assert a[key] == pytest.approx(b[key], abs=close), key


def test_only_the_main_process_writes(runs):
    folder, done = runs
    names = [{path.name for path in (folder / run).iterdir()} for run in ("one", "two")]
    assert names[0] == names[1]
    assert done.stdout.count("model, metrics.json and predictions/") == 2  # once a run
    assert done.stdout.count("train · step 7 ·") == 1
    inside = {path.name for path in (folder / "two" / "checkpoint-25").iterdir()}
    assert {"process-0.safetensors", "process-1.safetensors", "model.safetensors", "trainer_state.json"} <= inside


def test_a_run_of_two_processes_goes_on_inside_an_epoch_with_the_same_rows(runs):
    folder, _ = runs
    (two, two_log), (resumed, resumed_log) = held(folder / "two"), held(folder / "resumed")
    tail = [[e["loss"] for e in log if "loss" in e and e["step"] > 25] for log in (two_log, resumed_log)]
    assert len(tail[0]) == 15
    assert tail[0] == tail[1]
    assert resumed["scores"] == two["scores"]
    first, second = ((folder / run / "model.safetensors").read_bytes() for run in ("two", "resumed"))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("done", [True, False])
def test_a_run_of_one_process_goes_on_with_two(done, runs, words, torchrun, tmp_path):
    """The same rows a step, so the same run but for rounding; nobody waits for a step that another doesn't do."""
    folder, _ = runs
    run = shutil.copytree(folder / "one", tmp_path / "run")
    (run / "metrics.json").unlink()
    for checkpoint in run.glob("checkpoint-*") if not done else []:
        if int(checkpoint.name.split("-")[1]) > 25:
            shutil.rmtree(checkpoint)
    flags = ["--ddp_backend", "gloo", "--per_device_train_batch_size", "4", "--resume", "auto"]
    ended = torchrun("scripts/train.py", *words, *flags, "--output_dir", run)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "processes was 1 and is 2: the same rows, but not the same rounding" in ended.stdout
    first, second = (load_file(path / "model.safetensors") for path in (folder / "one", run))
    for name, value in first.items():
        assert np.allclose(value, second[name], atol=1e-5), name
