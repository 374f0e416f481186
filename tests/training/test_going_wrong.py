"""A run that goes wrong says where and what to do, and keeps what it had."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qabert.checkpoints import newest_whole
from qabert.errors import InputError, RunError, out_of_memory
from qabert.tasks import PAPER_TASKS
from qabert.training.output import check_room
from qabert.training.recipes import parse
from qabert.training.results import unlearnt
from qabert.training.run import train
from qabert.training.trainer import QABertTrainer

ROOT = Path(__file__).parents[2]
WORDS = """
    --format joint --max_length 32 --head_blocks 1 --use_cpu true --disable_tqdm true --report_to none
    --num_train_epochs 1 --per_device_train_batch_size 8 --logging_steps 1 --order sequential --head_dropout 0
    --dropout 0 --save_strategy steps --save_steps 2 --eval_strategy no --load_best_model_at_end false
"""


@pytest.fixture
def words(encoder_path, course_folder, tmp_path):
    return [
        *WORDS.split(),
        "--data",
        str(course_folder),
        "--encoder",
        encoder_path,
        "--output_dir",
        str(tmp_path / "run"),
    ]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_no_number_names_step_task_and_rows(accumulation, words, tmp_path, monkeypatch):
    seen = []
    compute, collate = QABertTrainer.compute_loss, QABertTrainer.get_train_dataloader

    def poisoned(self, model, inputs, *args, **kwargs):
        loss = compute(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 4 else loss

    def watched(self):
        loader = collate(self)
        fetch = loader.collate_fn

        def remember(features):
            seen.append(features)
            return fetch(features)

        loader.collate_fn = remember
        return loader

    monkeypatch.setattr(QABertTrainer, "compute_loss", poisoned)
    monkeypatch.setattr(QABertTrainer, "get_train_dataloader", watched)
    keys = [*words, "--per_device_train_batch_size", str(8 // accumulation)]
    keys += ["--gradient_accumulation_steps", str(accumulation)]
    with pytest.raises(RunError, match="the loss is nan at step 5, task 'sst', rows ") as error:
        train(parse(keys))
    message = str(error.value)
    assert f"The last checkpoint is {tmp_path / 'run' / 'checkpoint-4'}" in message
    assert "learning_rate" in message
    assert newest_whole(tmp_path / "run").name == "checkpoint-4"
    # the rows named are those whose texts were in the step
    from qabert.data.sources import load_data

    rows = load_data({"sst": PAPER_TASKS["sst"]}, words[words.index("--data") + 1])["sst"].splits["train"]
    named = message.split("rows ")[1].split(";")[0].split(", ")
    assert len(named) == 8
    step = seen[4 * accumulation : 5 * accumulation]
    labels = sorted(rows["label"][rows["id"].index(name)] for name in named)
    assert labels == sorted(feature["labels"] for features in step for feature in features)


def test_gradients_that_are_no_number_stop_before_the_weights_change(words, tmp_path, monkeypatch):
    step = QABertTrainer.training_step
    trainers = []

    def poisoned(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        if self.state.global_step == 2:
            trainers.append(self)
            next(self.model.parameters()).grad[0, 0] = float("inf")
        return loss

    monkeypatch.setattr(QABertTrainer, "training_step", poisoned)
    with pytest.raises(RunError, match=r"the gradients' norm is (inf|nan) at step 3, task 'sst'"):
        train(parse(words))
    assert all(torch.isfinite(parameter).all() for parameter in trainers[0].model.parameters())


def test_an_evaluation_without_numbers(make_trainer):
    trainer = make_trainer()
    with torch.no_grad():
        next(trainer.model.heads["head_sts"].parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="dev rows are answered with no number"):
        trainer.evaluate()


MEMORY = """
import resource, sys, torch
from qabert.cli import train_main
from qabert.training.{module} import {name} as Trainer
function = Trainer.{function}

def squeezed(self, *args, **kwargs):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    return function(self, *args, **kwargs)

Trainer.{function} = squeezed
train_main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("function", "flags", "said"),
    [
        (
            "training_step",
            [],
            ["at step 1, task 'sst', rows", "a batch of 2000 × ", "lower per_device_train_batch_size"],
        ),
        pytest.param(
            "_predict_task",
            ["--score_untrained"],
            ["in an evaluation of 2,000 rows", "lower per_device_eval_batch_size or max_length"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_memory_that_does_not_suffice_names_the_batch_and_what_to_lower(
    function, flags, said, words, tmp_path, encoder_path
):
    data = tmp_path / "data"
    data.mkdir()
    text = "".join(f"{n}\t{'ab cd ' * 40}\t{n % 5}\n" for n in range(2000))
    for name in ("train", "dev"):
        (data / f"ids-sst-{name}.csv").write_text("id\tsentence\tsentiment\n" + text)
    script = tmp_path / "worker.py"
    script.write_text(MEMORY.format(module="trainer", name="QABertTrainer", function=function))
    keys = [*words, *flags, "--data", str(data), "--tasks", "sst", "--max_length", "96", "--max_steps", "1"]
    keys += ["--per_device_train_batch_size", "2048", "--per_device_eval_batch_size", "2048"]
    done = subprocess.run(
        [sys.executable, str(script), *keys],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "out of memory" in done.stderr
    for part in said:
        assert part in done.stderr, done.stderr


def test_what_counts_as_out_of_memory():
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory(ValueError("not enough memory of my own"))


def test_a_task_that_learns_nothing_in_a_whole_run_is_called_out():
    tasks = {"sst": PAPER_TASKS["sst"], "sts": PAPER_TASKS["sts"]}
    majority = {"sst": {"accuracy": 0.25}, "sts": {"pearson": 0.0}}
    history = [{"eval_sst/accuracy": 0.25, "eval_sts/pearson": 0.4}, {"loss": 1.0}, {"eval_sst/accuracy": 0.2}]
    (line,) = unlearnt(tasks, history, {"sst": {"accuracy": 0.25}, "sts": {"pearson": -0.1}}, majority)
    assert "task 'sst' was never better than one answer for every row: accuracy 0.250" in line
    assert "3 evaluations" in line
    assert not unlearnt(tasks, history, {"sst": {"accuracy": 0.26}, "sts": {"pearson": 0.1}}, majority)


def test_warnings_are_kept_and_printed(words, tmp_path, capsys):
    result = train(parse([*words, "--learning_rate", "1e-12", "--tasks", "sst", "--prior_correction", "true"]))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: task")]
    assert told == [f"warning: {line}" for line in result["warnings"]]


def test_a_disk_without_room_is_told_before_training(tmp_path, make_trainer, monkeypatch):
    trainer = make_trainer(trainer={"save_strategy": "epoch"})
    check_room(tmp_path, trainer.model, trainer.args)
    usage = os.statvfs(tmp_path)
    assert usage.f_bavail > 0
    monkeypatch.setattr("qabert.training.output.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match="the disk has 0 MiB left and the run writes at least"):
        check_room(tmp_path, trainer.model, trainer.args)


def test_no_token_is_saved_or_printed(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "scripts/train.py", *words, "--max_steps", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_TOKEN": "hf_SecretSecretSecret"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "hf_Secret" not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if b"hf_Secret" in path.read_bytes()]
    with pytest.raises(InputError, match="key 'hub_token' is set by this package") as error:
        parse([*words, "--hub_token", "hf_SecretSecretSecret"])
    assert "hf_Secret" not in str(error.value)


def test_a_file_that_may_not_grow_is_no_traceback(words, tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: every file of more than 20 kB fails, the checkpoint's among them."""
    done = subprocess.run(
        [sys.executable, "scripts/train.py", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "checkpoint-2 can't be written" in done.stderr
    assert "--resume auto" in done.stderr
    assert not list((tmp_path / "run").glob("*checkpoint-2*"))
