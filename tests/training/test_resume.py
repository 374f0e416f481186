"""A run that is interrupted at any moment ends with the bits of one that wasn't; a signal saves; a disk may be full."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors import safe_open

from qabert.checkpoints import newest_whole, problem
from qabert.errors import RunError, Stopped
from qabert.training import checkpointing
from qabert.training.callbacks import StepSeeds
from qabert.training.recipes import parse
from qabert.training.run import train
from qabert.training.state_files import load_state, save_state
from qabert.training.stopping import stop_signals
from qabert.training.trainer import QABertTrainer

#: Dropout everywhere, losses by task, weighted draws: all that could differ after a resume.
WORDS = """
    --format joint --max_length 32 --head_blocks 1 --use_cpu true --disable_tqdm true --report_to none
    --num_train_epochs 3 --learning_rate 5e-3 --per_device_train_batch_size 8 --logging_steps 3
    --head_dropout 0.3 --dropout 0.2 --save_total_limit 2 --examples_per_epoch sst=16,sts=16,quora=16
    --eval_examples sst=8,sts=8,quora=8
"""
BY_STEPS = "--save_strategy steps --save_steps 2 --eval_strategy steps --eval_steps 2"
MIXED = "--save_strategy steps --save_steps 2 --eval_strategy epoch --load_best_model_at_end false"
KINDS = {
    "sequential": f"--order sequential {BY_STEPS}",
    "interleaved": "--order interleaved",  # evaluation and checkpoint at each epoch's end
    "annealed": f"--order annealed {MIXED}",
    "accumulated": f"--order sequential {MIXED} --per_device_train_batch_size 4 --gradient_accumulation_steps 2",
    "cut": f"--order interleaved {MIXED} --max_steps 10",  # ends inside an epoch
    "patient": f"--order interleaved {BY_STEPS} --early_stopping_patience 2 --learning_rate 1e-9 --warmup_steps 0",
    "lora": f"--order interleaved {BY_STEPS} --lora_rank 2 --lora_dropout 0.2",
    "triplets": f"--order interleaved {BY_STEPS} --triplet_loss equation1 --triplet_examples sst=32,sts=32,quora=16",
}
#: The others are marked as slow.
FIRST = ("interleaved",)


class Killed(BaseException):
    """Nothing catches it, and nothing is written after it: as near to SIGKILL as one process can come."""


@pytest.fixture
def words(encoder_path, course_folder):
    return [*WORDS.split(), "--data", str(course_folder), "--encoder", encoder_path]


def weights(folder):
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def told(result):
    """All that a run measured, without times."""
    clocks = ("runtime", "per_second", "seconds", "train_loss", "total_flos")
    history = [{key: value for key, value in entry.items() if not key.endswith(clocks)} for entry in result["history"]]
    triplet = result["triplet"] and {key: result["triplet"][key] for key in ("before", "after", "steps")}
    return history, result["scores"], result["steps"], result["train_examples"], triplet


class Moments:
    """Counts steps, evaluated batches and moments of saving, and kills at one of them."""

    def __init__(self, monkeypatch, at=None):
        self.at, self.count, self.kinds = at, 0, []
        step, predict, save = QABertTrainer.training_step, QABertTrainer.prediction_step, checkpointing.save_state
        rename = checkpointing.rotate

        def counted(kind, function):
            def call(*args, **kwargs):
                self.count += 1
                self.kinds.append(kind)
                if self.count == self.at:
                    raise Killed
                return function(*args, **kwargs)

            return call

        monkeypatch.setattr(QABertTrainer, "training_step", counted("step", step))
        monkeypatch.setattr(QABertTrainer, "prediction_step", counted("evaluation", predict))
        monkeypatch.setattr(checkpointing, "save_state", counted("save", save))
        monkeypatch.setattr(checkpointing, "rotate", counted("saved", rename))


@pytest.mark.parametrize(
    "kind", [*FIRST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in FIRST)]
)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(kind, words, tmp_path, monkeypatch):
    keys = [*words, *KINDS[kind].split(), "--resume", "auto"]
    with monkeypatch.context() as patch:
        moments = Moments(patch)
        whole = train(parse([*keys, "--output_dir", str(tmp_path / "whole")]))
    seen = moments.kinds
    assert set(seen) == {"step", "evaluation", "save", "saved"}
    # of each kind of moment the first, the last or one between, and of the steps all three; the fault tests try more
    chosen = set()
    for number, each in enumerate(("evaluation", "save", "saved", "step", "step", "step"), list(KINDS).index(kind)):
        found = [n for n, k in enumerate(seen, 1) if k == each]
        chosen.add((found[0], found[len(found) // 2], found[-1])[number % 3])
    killed = tmp_path / "killed"
    for at in sorted(chosen):
        shutil.rmtree(killed, ignore_errors=True)
        with monkeypatch.context() as patch:
            Moments(patch, at)
            with pytest.raises(Killed):
                train(parse([*keys, "--output_dir", str(killed)]))
        again = train(parse([*keys, "--output_dir", str(killed)]))
        assert told(again) == told(whole), (at, seen[at - 1])
        assert weights(killed) == weights(tmp_path / "whole"), (at, seen[at - 1])
        best = [newest_whole(tmp_path / name) for name in ("whole", "killed")]
        assert best[0].name == best[1].name
        assert weights(best[0]) == weights(best[1])
        assert not [path.name for path in killed.rglob("*") if path.name.endswith((".part", ".old", ".gone"))]


def test_a_second_command_after_the_end_does_nothing(words, tmp_path, capsys, monkeypatch):
    keys = [*words, "--output_dir", str(tmp_path / "run"), "--max_steps", "2", "--resume", "auto"]
    first = train(parse(keys))
    monkeypatch.setattr(QABertTrainer, "__init__", None)
    assert (
        train(parse(keys))
        == json.loads((tmp_path / "run" / "metrics.json").read_text())
        == json.loads(json.dumps(first))
    )
    assert "is complete" in capsys.readouterr().out


def test_a_broken_newest_checkpoint_is_skipped_and_told_of(words, tmp_path, capsys):
    keys = [*words, *KINDS["sequential"].split(), "--output_dir", str(tmp_path / "run"), "--resume", "auto"]
    whole = train(parse(keys))
    before = weights(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    newest = newest_whole(tmp_path / "run")
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "optimizer.safetensors").write_bytes(data)
    again = train(parse(keys))
    out = capsys.readouterr().out
    assert f"skipping {newest}: optimizer.safetensors isn't what was written" in out
    assert told(again) == told(whole)
    assert weights(tmp_path / "run") == before


def test_a_run_moved_to_another_folder_finds_its_best_checkpoint(words, tmp_path):
    keys = [*words, *KINDS["interleaved"].split(), "--resume", "auto", "--learning_rate", "3e-2"]
    whole = train(parse([*keys, "--output_dir", str(tmp_path / "first")]))
    before = weights(tmp_path / "first")
    (tmp_path / "first" / "metrics.json").unlink()
    (tmp_path / "first").rename(tmp_path / "second")
    again = train(parse([*keys, "--output_dir", str(tmp_path / "second")]))
    assert told(again) == told(whole)
    assert weights(tmp_path / "second") == before
    assert again["train_seconds"] > whole["train_seconds"] / 2  # though nothing was left to train
    assert whole["train_examples"] == 3 * 48


def test_a_state_that_names_a_best_checkpoint_elsewhere_is_not_followed(words, tmp_path, capsys):
    keys = [*words, "--output_dir", str(tmp_path / "run"), "--resume", "auto"]
    train(parse(keys))
    (tmp_path / "run" / "metrics.json").unlink()
    newest = newest_whole(tmp_path / "run")
    state = json.loads((newest / "trainer_state.json").read_text())
    (newest / "trainer_state.json").write_text(json.dumps(state | {"best_model_checkpoint": "/etc/.."}))
    from qabert.checkpoints import write_checksums

    write_checksums(newest)
    train(parse(keys))
    assert "is lost (there is no such checkpoint)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "signum"),
    [
        ("sequential", signal.SIGTERM),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("sequential", signal.SIGINT),
                ("interleaved", signal.SIGTERM),
                ("interleaved", signal.SIGINT),
                ("cut", signal.SIGINT),
                ("cut", signal.SIGTERM),
            )
        ),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_to_the_same_bits(kind, signum, words, tmp_path, monkeypatch, request):
    keys = [*words, *KINDS[kind].split(), "--resume", "auto"]
    whole = train(parse([*keys, "--output_dir", str(tmp_path / "whole")]))
    default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(signum, default)  # in the background Ctrl-C is ignored
    request.addfinalizer(lambda: signal.signal(signum, before))
    step, predict = QABertTrainer.training_step, QABertTrainer.prediction_step
    for moment in ("step", "last step", "evaluation"):
        output = tmp_path / moment.replace(" ", "-")
        calls = {"step": 0, "evaluation": 0}

        def stepping(self, *args, calls=calls, moment=moment, **kwargs):
            calls["step"] += 1
            if calls["step"] == {"step": 5, "last step": 6}.get(moment):
                os.kill(os.getpid(), signum)
            return step(self, *args, **kwargs)

        def predicting(self, *args, calls=calls, moment=moment, **kwargs):
            calls["evaluation"] += 1
            if moment == "evaluation" and calls["evaluation"] == 2:
                os.kill(os.getpid(), signum)
            return predict(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(QABertTrainer, "training_step", stepping)
            patch.setattr(QABertTrainer, "prediction_step", predicting)
            with pytest.raises(Stopped) as stopped:
                train(parse([*keys, "--output_dir", str(output)]))
        assert stopped.value.code == 128 + signum
        assert "is saved" in stopped.value.message
        saved = newest_whole(output)
        assert str(saved) in stopped.value.message
        if moment == "step":
            assert saved.name == "checkpoint-5"
        again = train(parse([*keys, "--output_dir", str(output)]))
        assert told(again) == told(whole), moment
        assert weights(output) == weights(tmp_path / "whole")
        assert signal.getsignal(signum) == default


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_signal_ends_at_once(words, tmp_path, monkeypatch):
    step = QABertTrainer.training_step

    def twice(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the second signal was not heard")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(QABertTrainer, "training_step", twice)
    with pytest.raises(Stopped):
        train(parse([*words, "--output_dir", str(tmp_path / "run")]))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(number, words, tmp_path, monkeypatch):
    keys = [*words, *KINDS["sequential"].split(), "--output_dir", str(tmp_path / "run"), "--resume", "auto"]
    save = checkpointing.save_state

    def failing(path, state):
        if "checkpoint-6" in str(path):
            path.write_bytes(b"half")
            raise OSError(number, os.strerror(number), str(path))
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save_state", failing)
        with pytest.raises(RunError, match=os.strerror(number)) as error:
            train(parse(keys))
    assert "checkpoint-4 is whole" in str(error.value)
    assert "--resume auto" in str(error.value)
    assert sorted(path.name for path in (tmp_path / "run").glob("*checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert train(parse(keys))["steps"] == 18


def test_a_checkpoint_holds_no_pickle(words, tmp_path):
    train(parse([*words, "--output_dir", str(tmp_path / "run")]))
    files = [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert problem(tmp_path / "run") is None
    assert "checksums.json" in files


def test_states_come_back_as_they_were(tmp_path):
    state = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "m": torch.randn(3, 2).t()}}, "groups": [{"lr": 1e-3}]},
        "none": None,
        "flag": True,
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    assert torch.equal(back["optimizer"]["state"][0]["m"], state["optimizer"]["state"][0]["m"])
    assert back["optimizer"]["groups"] == [{"lr": 1e-3}]
    assert back["none"] is None
    assert back["flag"] is True
    assert back["half"].dtype == torch.bfloat16
    with pytest.raises(TypeError, match="can't be part"):
        save_state(tmp_path / "t", {"bad": object()})


def test_dropout_follows_from_seed_step_and_process():
    def draw(**values):
        args = {"seed": 1, "process_index": 0} | {k: v for k, v in values.items() if k != "global_step"}
        state = {"global_step": values.get("global_step", 0)}
        StepSeeds(None).on_step_begin(type("A", (), args), type("S", (), state), None)
        return torch.rand(1).item()

    assert draw() == draw()
    assert len({draw(), draw(seed=2), draw(global_step=1), draw(process_index=1)}) == 4
