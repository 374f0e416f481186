"""Searches over tiny encoders: what a sweep file may say, what a study does, and that a kill costs nothing."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from qabert.cli.sweep import run as sweep_command
from qabert.errors import InputError
from qabert.training import search as searching
from qabert.training.recipes import parse
from qabert.training.search import search
from qabert.training.sweeps import Sweep, read_sweep

ROOT = Path(__file__).parents[2]
READY = ROOT / "scripts" / "sweeps"
SPACE = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}, "head_blocks": [0, 1]}


@pytest.fixture
def settings(encoder_path, course_folder):
    return {
        "data": str(course_folder), "encoder": encoder_path, "format": "separate", "max_length": 64, "use_cpu": True,
        "disable_tqdm": True, "num_train_epochs": 1, "per_device_train_batch_size": 32, "cache": False,
    }  # fmt: skip


def table(output: Path) -> list[dict]:
    with (output / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, **values) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_a_grid_of_all_kinds_of_keys(tmp_path, settings, capsys, monkeypatch):
    space = {
        "format": ["separate", "joint"],  # needs features anew
        "per_device_train_batch_size": [16, 32],
        "examples_per_epoch.quora": {"low": 16, "high": 32, "step": 16},
    }
    own = settings | {"head_blocks": 0, "examples_per_epoch": {"sst": 16, "sts": 16}, "eval_examples": {"sst": 5}}
    file = write(tmp_path / "sweep.yaml", settings=own, space=space, sampler="grid", trials=3)
    output = tmp_path / "out"
    sweep_command([str(file), "--output_dir", str(output), "--max_length", "48"])
    lines = table(output)
    values = [tuple(line[key] for key in space) for line in lines]
    assert values == [("separate", "16", "16"), ("separate", "16", "32"), ("separate", "32", "16")]
    # Steps an epoch, a batch being of one task.
    assert [line["steps"] for line in lines] == ["3", "4", "3"]
    assert {line["state"] for line in lines} == {"complete"}
    assert not list(output.glob("trials/*/*.safetensors")) and not list(output.glob("trials/*/checkpoint-*"))
    assert len(list(output.glob("figures/*.png"))) == len(list(output.glob("figures/*.svg"))) == 4
    assert "3 complete" in capsys.readouterr().out

    best = max(lines, key=lambda line: float(line["score"]))
    args = parse([str(output / "best.yaml")])
    assert (args.format, args.max_length, args.output_dir) == (best["format"], 48, str(output / "best"))
    assert args.examples_per_epoch == {"sst": 16, "sts": 16, "quora": int(best["examples_per_epoch.quora"])}
    from qabert.training.run import train

    assert train(args)["score"] == pytest.approx(float(best["score"]), abs=1e-9)

    # Again, with more trials: those that are done aren't run again.
    ran = []
    monkeypatch.setattr(searching, "train", lambda *args, **kwargs: ran.append(args) or train(*args, **kwargs))
    sweep_command([str(file), "--output_dir", str(output), "--max_length", "48", "--trials", "4", "--keep_models"])
    assert len(ran) == 1 and "3 of 4 trials were done before" in capsys.readouterr().out
    assert table(output)[:3] == lines and len(table(output)) == 4
    assert (output / "trials" / "4" / "model.safetensors").is_file()
    with pytest.raises(InputError, match=r"key 'max_length' was 48 in the sweep that .* and is 32 now"):
        sweep_command([str(file), "--output_dir", str(output), "--max_length", "32"])


@pytest.mark.slow
def test_median_pruning_and_a_trial_that_diverges(tmp_path, settings, monkeypatch, capsys):
    scores = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.1])  # of the first evaluations: the sixth is below the others' median
    from qabert.training.trainer import QABertTrainer

    def log(self, logs, start_time=None, real=QABertTrainer.log):
        if "eval_score" in logs:
            logs["eval_score"] = next(scores)
        real(self, logs, start_time)

    monkeypatch.setattr(QABertTrainer, "log", log)
    space = {"learning_rate": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 1e30]}
    own = settings | {"head_blocks": 0, "examples_per_epoch": {"sst": 32, "sts": 32, "quora": 32}, "warmup_steps": 0}
    sweep = Sweep(settings=own, space=space, sampler="grid", pruner="median")
    search(sweep, tmp_path / "out")
    lines = table(tmp_path / "out")
    assert [line["state"] for line in lines] == ["complete"] * 5 + ["pruned", "failed"]
    assert "training stops before the weights change" in lines[6]["error"]
    assert lines[5]["score"] == "0.1" and lines[5]["evaluations"] == "1"
    assert "5 complete, 1 pruned, 1 failed" in capsys.readouterr().out
    search(sweep, tmp_path / "out")  # nothing is left
    assert table(tmp_path / "out") == lines


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_the_trial_that_was_cut(tmp_path, settings):
    own = settings | {"save_steps": 4, "save_strategy": "steps", "eval_strategy": "epoch",
                      "load_best_model_at_end": False, "head_blocks": 0, "per_device_train_batch_size": 8}  # fmt: skip
    space = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
    file = write(tmp_path / "sweep.yaml", settings=own, space=space, sampler="tpe", trials=3, seed=3)
    output = tmp_path / "out"
    command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), str(file), "--output_dir", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.time() + 120
    try:
        while not list((output / "trials" / "2").glob("checkpoint-*")):
            assert process.poll() is None and time.time() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    import optuna

    def trials():
        return optuna.load_study(study_name="sweep", storage=f"sqlite:///{output}/sweep.db").trials

    before = trials()
    assert [trial.state.name for trial in before] == ["COMPLETE", "RUNNING"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 of 3 trials were done before" in done.stdout and "going on from " in done.stdout
    lines = table(output)
    assert [line["trial"] for line in lines] == ["1", "2", "3"] and {line["state"] for line in lines} == {"complete"}
    assert float(lines[1]["learning_rate"]) == before[1].params["learning_rate"]
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials()[0].datetime_complete == before[0].datetime_complete


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": {}}, "'space': there is nothing to search"),
        ({"space": {"learning_rate": [0.1]}, "sampler": "gird"}, "unknown value 'gird' .did you mean 'grid'"),
        ({"space": {"learning_rate": {"low": 1.0, "high": 0.1}}}, "expected low below high"),
        ({"space": {"learning_rate": {"low": 0.1, "hihg": 1}}}, "expected a list of choices, or a range"),
        ({"space": {"learning_rate": {"low": 1e-5, "high": 1.0}}, "sampler": "grid"}, "or a range with 'step'"),
        ({"space": {"head_blocks": [1, 1]}}, "expected different choices"),
        ({"space": {"head_blocks.sst": [1]}}, "only examples_per_epoch, .* have parts, such as"),
        ({"space": {"output_dir": ["a"]}}, "each trial has its own"),
        ({"space": {"head_blocks": [1]}, "trials": 0}, "'trials' has 0"),
        ({"space": {"head_blocks": [1]}, "settings": {"resume": "auto"}}, "key 'resume': each trial has its own"),
        ({"space": {"head_blocks": [1]}, "tirals": 3}, "unknown key 'tirals' .did you mean 'trials'"),
        ({"space": {3: [1]}}, "has the key 3"),
        ({"space": [1]}, "'space' has .*expected a mapping"),
    ],
)
def test_sweep_files_that_cant_be(tmp_path, values, message):
    file = write(tmp_path / "sweep.yaml", **({"settings": {}} | values))
    with pytest.raises(InputError, match=message):
        read_sweep(file, {})


@pytest.mark.parametrize(
    ("space", "sampler", "message"),
    [
        ({"head_blocks": {"low": 0, "high": 99}}, "tpe", "head_blocks 99: key 'head_blocks' has 99"),
        ({"head_blocks": [1, 2], "format": ["qa", "qua"]}, "grid", "format qua: .*did you mean 'qa'"),
        ({"lerning_rate": [1]}, "random", "unknown key 'lerning_rate'.*did you mean 'learning_rate'"),
        ({"learning_rate": {"low": 0.0, "high": 1.0, "log": True}}, "tpe", "'learning_rate' has .*"),
        ({"examples_per_epoch.ssst": [5]}, "grid", "unknown task 'ssst'"),
    ],
)
def test_every_value_is_checked_before_the_first_trial(tmp_path, settings, space, sampler, message):
    with pytest.raises(InputError, match=message):
        search(Sweep(settings=settings, space=space, sampler=sampler, trials=4), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_else_is_refused(tmp_path, settings, monkeypatch):
    file = write(tmp_path / "sweep.yaml", settings=settings, space=SPACE)
    with pytest.raises(InputError, match=r"key 'head_blocks' is what .*sweep.yaml searches"):
        read_sweep(file, {"head_blocks": 1})
    no_scores = Sweep(settings=settings | {"eval_strategy": "no", "load_best_model_at_end": False}, space=SPACE,
                      pruner="median")  # fmt: skip
    with pytest.raises(InputError, match="needs scores during training"):
        search(no_scores, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="holds other files"):
        search(Sweep(settings=settings, space=SPACE), tmp_path / "other")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="started 2 processes, and a sweep is one"):
        search(Sweep(settings=settings, space=SPACE), tmp_path / "out")


def test_random_draws_are_the_same_however_many_there_are(settings):
    few, more = (Sweep(settings=settings, space=SPACE, sampler="random", trials=n, seed=5).points() for n in (3, 6))
    assert more[:3] == few and len({values["learning_rate"] for values in more}) == 6


def test_tasks_of_a_file_are_written_out(tmp_path):
    task = {"problem": "binary", "question": "?", "columns": {"text_a": "x", "label": "y"}, "labels": ["no", "yes"]}
    write(tmp_path / "tasks.yaml", tasks={"mine": task | {"files": {"train": "a.csv", "dev": "b.csv"}}})
    sweep = read_sweep(write(tmp_path / "s.yaml", settings={"tasks": "tasks.yaml"}, space={"head_blocks": [1]}), {})
    assert sweep.settings["tasks"]["mine"]["files"] == {
        "train": str(tmp_path / "a.csv"),
        "dev": str(tmp_path / "b.csv"),
    }


@pytest.mark.parametrize("name", ["paper_grid", "random", "tpe"])
def test_ready_sweeps_can_be_run(name, tmp_path):
    read_sweep(READY / f"{name}.yaml", {"use_cpu": True}).check(tmp_path / "out")


def test_the_papers_grid():
    sweep = read_sweep(READY / "paper_grid.yaml", {})
    assert sweep.number == 12 and sweep.grid() == {
        "head_dropout": [0.1, 0.2, 0.3, 0.4], "learning_rate": [1e-3, 1e-5, 1e-7],
    }  # fmt: skip
    assert sweep.settings["encoder"] == "bert-base-uncased" and sweep.settings["num_train_epochs"] == 40


def test_the_file_for_weights_and_biases_searches_the_same_space():
    wandb = yaml.safe_load((READY / "wandb.yaml").read_text())
    spaces = [read_sweep(READY / f"{name}.yaml", {}).space for name in ("random", "tpe")]
    assert spaces[0] == spaces[1]
    found = {}
    for key, given in wandb["parameters"].items():
        if "values" in given:
            found[key] = given["values"]
            continue
        kind = {"log_uniform_values": {"log": True}, "uniform": {}}[given["distribution"]]
        found[key] = {"low": given["min"], "high": given["max"], **kind}
    assert found == spaces[1]
    # What its own client knows: https://docs.wandb.ai/guides/sweeps/sweep-config-keys
    assert set(wandb) <= {
        "program", "project", "entity", "description", "name", "method", "metric", "parameters", "early_terminate",
        "command", "run_cap", "job", "image_uri",
    }  # fmt: skip
    assert wandb["method"] in ("grid", "random", "bayes") and (ROOT / wandb["program"]).is_file()
    from qabert.training.trackers import tracked_names

    assert wandb["metric"] == {"name": "eval/score", "goal": "maximize"}
    assert tracked_names({"eval_score": 0.5}) == {wandb["metric"]["name"]: 0.5}


def test_the_command_that_an_agent_of_weights_and_biases_runs(tmp_path):
    """As its agent fills it in: a word a parameter, and the run's id in the environment alone."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    wandb = yaml.safe_load((READY / "wandb.yaml").read_text())
    drawn = {"learning_rate": 1e-4, "per_device_train_batch_size": 8, "head_blocks": 0, "head_dropout": 0.2,
             "pooling": "mean"}  # fmt: skip
    assert set(drawn) == set(wandb["parameters"])
    flags = create_sweep_command_args({"args": {key: {"value": value} for key, value in drawn.items()}})["args"]
    filled = {"${env}": ["/usr/bin/env"], "${program}": [wandb["program"]], "${args}": flags}
    words = [part for word in create_sweep_command(wandb["command"]) for part in filled.get(word, [word])]
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WANDB_RUN_ID": "abc123"}
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    program, *rest = said.splitlines()
    assert program == "scripts/train.py"
    (ROOT / rest[0]).is_file()
    args = parse([str(ROOT / rest[0]), *rest[1:], "--use_cpu", "true"])
    assert args.output_dir == "runs/wandb/abc123" and args.pooling == "mean" and args.head_dropout == 0.2
    assert args.trainer["report_to"] == "wandb" and args.trainer["learning_rate"] == 1e-4
