"""A run from words to files, its refusals, and going on after a kill."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from qabert.checkpoints import newest_whole
from qabert.errors import InputError
from qabert.modeling import QABertModel
from qabert.tasks import PAPER_TASKS
from qabert.training.building import subset
from qabert.training.output import prepare_output
from qabert.training.recipes import parse
from qabert.training.run import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def words(encoder_path, course_folder):
    """Flags of a short run on the CPU."""
    return (
        f"--data {course_folder} --encoder {encoder_path} --format separate --max_length 64 --head_blocks 1 "
        "--use_cpu true --disable_tqdm true --per_device_train_batch_size 12 --per_device_eval_batch_size 7 "
        "--num_train_epochs 2 --learning_rate 1e-3 --logging_steps 3"
    ).split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, words):
    """Folder and result of a whole run."""
    output = tmp_path_factory.mktemp("run") / "deep" / "out"
    args = parse([*words, "--output_dir", str(output), "--score_untrained", "--eval_examples", "sst=5,quora=999"])
    return output, train(args)


def test_a_run_leaves_everything_that_is_needed_to_use_it(finished, encoder_path):
    output = finished[0]
    files = {path.name for path in output.iterdir()}
    assert files >= {"config.json", "model.safetensors", "tokenizer.json", "metrics.json", "arguments.yaml"}
    assert not [name for name in files if name.endswith(".part") or name.startswith(".")]
    config = (output / "config.json").read_text(encoding="utf-8")
    assert encoder_path not in config
    assert str(output.parent) not in config
    assert [task["name"] for task in json.loads(config)["tasks"]] == list(PAPER_TASKS)
    for file in ("config.json", "tokenizer_config.json"):
        assert encoder_path not in (output / file).read_text(encoding="utf-8")
    saved = yaml.safe_load((output / "arguments.yaml").read_text(encoding="utf-8"))
    assert (saved["format"], saved["eval_examples"]) == ("separate", {"sst": 5, "quora": 999})
    assert float(saved["learning_rate"]) == 1e-3


def test_metrics_json(finished):
    output, result = finished

    def no_nan(value):
        raise AssertionError(f"{value} is no JSON")

    held = json.loads((output / "metrics.json").read_text(encoding="utf-8"), parse_constant=no_nan)
    assert held == json.loads(json.dumps(result))
    expected = {"score", "scores", "untrained", "majority", "data", "history", "arguments", "versions"}
    assert set(held) >= expected | {"steps", "train_seconds", "train_examples", "train_examples_per_second"}
    for scores in (held["scores"], held["untrained"]):
        assert {name: set(of) for name, of in scores.items()} == {
            name: {*task.metrics, "loss"} for name, task in PAPER_TASKS.items()
        }
    assert held["score"] == pytest.approx(np.mean([held["scores"][n][t.score] for n, t in PAPER_TASKS.items()]))
    assert held["untrained"] != held["scores"]
    assert held["steps"] == 28
    assert [entry["epoch"] for entry in held["history"] if "eval_score" in entry] == [1.0, 2.0]
    assert held["data"]["sst"]["train"]["used"] == 48


def test_predictions_are_those_of_the_saved_model_in_the_files_order(finished, course_folder):
    from qabert.answers import decide
    from qabert.inference import Predictor

    output, result = finished
    predictor = Predictor.from_pretrained(str(output))
    for name, task in PAPER_TASKS.items():
        with (output / "predictions" / f"{name}-dev.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with (course_folder / task.files["dev"]).open(encoding="utf-8", newline="") as file:
            given = list(csv.DictReader(file, delimiter="\t"))
        assert [row["id"] for row in rows] == [row["id"] for row in given]
        labels = [task.parse_label(row["label"]) for row in rows]
        assert labels == pytest.approx([task.parse_label(row[task.columns["label"]]) for row in given], abs=1e-3)
        texts = [(row[task.columns["text_a"]], row[task.columns["text_b"]] if task.pair else None) for row in given]
        answers = np.concatenate(list(predictor.answers(name, texts)))
        if task.problem == "regression":
            assert [float(row["prediction"]) for row in rows] == pytest.approx(list(answers), abs=1e-3)
        else:
            assert [row["prediction"] for row in rows] == [task.labels[i] for i in decide(task, answers)]
            hits = np.mean([row["prediction"] == row["label"] for row in rows])
            assert result["scores"][name]["accuracy"] == pytest.approx(hits)
            shares = [[float(row[f"p({label})"]) for label in task.labels] for row in rows]
            assert np.allclose(np.sum(shares, axis=1), 1, atol=1e-5)


def test_eval_examples_choose_rows_for_training_only(finished):
    output, result = finished
    for entry in [entry for entry in result["history"] if "eval_score" in entry]:
        assert entry["eval_sst/accuracy"] * 5 == pytest.approx(round(entry["eval_sst/accuracy"] * 5))
    assert len((output / "predictions" / "sst-dev.csv").read_text().splitlines()) == 21


def test_a_subset_is_the_same_each_time_and_in_the_rows_order(course_features):
    dev = course_features["quora"]["dev"]
    chosen = [subset(dev, 6, seed)["text_a"][:] for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert [text for text in dev["text_a"] if text in chosen[0]] == chosen[0]
    assert subset(dev, None, 1) is dev and subset(dev, 22, 1) is dev


# What is refused, and before a model is loaded


class ModelLoaded(BaseException):
    """Not an Exception: those that come while a model is loaded are told as wrong input."""


@pytest.fixture
def no_model(monkeypatch):
    def loaded(*args, **kwargs):
        raise ModelLoaded

    monkeypatch.setattr(QABertModel, "from_encoder", loaded)


def test_a_folder_that_holds_a_run(finished, words, no_model):
    with pytest.raises(InputError, match=r"already holds a run.*--resume auto.*--overwrite"):
        train(parse([*words, "--output_dir", str(finished[0])]))
    assert (finished[0] / "metrics.json").is_file()


def test_overwrite_deletes_a_run_and_nothing_else(finished, words, tmp_path, no_model):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    args = parse([*words, "--output_dir", str(mine), "--overwrite"])
    with pytest.raises(InputError, match=r"holds no arguments.yaml.*left as it is"):
        train(args)
    assert (mine / "thesis.txt").read_text() == "years of work"
    run = shutil.copytree(finished[0], tmp_path / "run")
    keys = [*words, "--output_dir", str(run), "--overwrite"]
    for wrong in (["--data", str(tmp_path / "nowhere")], ["--max_length", "500"]):
        with pytest.raises(InputError):
            train(parse([*keys, *wrong]))
        assert (run / "metrics.json").is_file(), "a typing error costs no run"
    with pytest.raises(ModelLoaded):  # what stops here, say a damaged encoder, costs no run either
        train(parse(keys))
    assert (run / "metrics.json").is_file()


def test_overwrite_deletes_the_old_run(words, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("arguments.yaml", "stale.txt"):
        (run / name).write_text("{}")
    result = train(
        parse([*words, "--output_dir", str(run), "--overwrite", "--num_train_epochs", "1", "--tasks", "sst"])
    )
    assert not (run / "stale.txt").exists()
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["score"] == result["score"]
    # Labels were drawn evenly, so the checkpoint knows the rows' own shares.
    priors = json.loads((run / "config.json").read_text(encoding="utf-8"))["priors"]
    assert set(priors) == {"sst"}
    counts = [share * (48 + 5) - 1 for share in priors["sst"]]
    assert counts == pytest.approx([round(count) for count in counts])
    assert sum(counts) == pytest.approx(48)


def test_a_folder_that_another_process_trains_in_is_left_alone(finished, words, tmp_path):
    output, _ = finished
    run = shutil.copytree(output, tmp_path / "run")
    (run / "metrics.json").unlink()
    code = "import sys; from pathlib import Path; from qabert.training.output import alone\n"
    code += "with alone(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    try:
        assert other.stdout.readline() == "held\n"
        flags = ["--score_untrained", "--eval_examples", "sst=5,quora=999", "--output_dir", str(run)]
        for again in ("--resume auto", "--overwrite"):
            with pytest.raises(InputError, match="another process is training there"):
                train(parse([*words, *flags, *again.split()]))
        changed = {path for path in before if path.read_bytes() != before[path]}
        assert changed <= {run / "arguments.yaml"}
    finally:
        other.kill()
        other.communicate()
    train(parse([*words, *flags, "--resume", "auto"]))  # the lock went with its process


def test_overwrite_and_resume_together(finished, words, no_model):
    with pytest.raises(InputError, match="'overwrite' and 'resume' exclude each other"):
        train(parse([*words, "--output_dir", str(finished[0]), "--overwrite", "--resume", "auto"]))
    assert (finished[0] / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (["--learning_rate", "2e-3"], "learning_rate"),
        (["--order", "sequential"], "order"),
        (["--tasks", "sst,sts,quora"], None),
        (["--tasks", "sst,quora"], "tasks"),
        (["--learning_rate", "0.001"], None),
        (["--save_total_limit", "7"], None),
        (["--eval_examples", "sst=6,quora=999"], "eval_examples"),
        (["--gradient_accumulation_steps", "2"], "gradient_accumulation_steps"),
    ],
)
def test_resume_with_other_settings_names_the_key(finished, words, no_model, flags, key):
    same = [*words, "--output_dir", str(finished[0]), "--score_untrained", "--eval_examples", "sst=5,quora=999"]
    if key is None:  # the same, written otherwise
        args = parse([*same, "--resume", "auto", *flags])
        assert prepare_output(args, finished[0]) == str(finished[0] / "checkpoint-28")
        return
    with pytest.raises(InputError, match=f"key '{key}' was .* and is .* now"):
        train(parse([*same, "--resume", "auto", *flags]))


def test_resume_of_a_checkpoint_that_is_not_there(words, tmp_path, no_model):
    with pytest.raises(InputError, match="'nowhere' is no checkpoint"):
        train(parse([*words, "--output_dir", str(tmp_path / "out"), "--resume", "nowhere"]))


def test_an_output_folder_that_is_a_file_or_read_only(words, tmp_path, no_model):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="is a file; expected the name of a folder"):
        train(parse([*words, "--output_dir", str(file)]))
    with pytest.raises(InputError, match="can't be written"):
        train(parse([*words, "--output_dir", str(file / "below")]))


def test_a_wrong_data_file_is_reported_before_a_model_is_loaded(words, tmp_path, no_model):
    for change in (["--data", str(tmp_path)], ["--data", str(tmp_path / "nowhere")], ["--max_length", "500"]):
        with pytest.raises(InputError):
            train(parse([*words, "--output_dir", str(tmp_path / "out"), *change]))


def test_a_launcher_with_other_processes_stops_the_run(words, tmp_path, no_model, monkeypatch):
    args = parse([*words, "--output_dir", str(tmp_path / "out")])
    alone = args.training_arguments()
    monkeypatch.setattr(args, "training_arguments", lambda: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="started 2 processes but the Trainer sees 1"):
        train(args)


def test_resume_of_a_finished_run_ends_with_the_same_scores(finished, words, tmp_path):
    output, result = finished
    run = shutil.copytree(output, tmp_path / "run")
    flags = ["--score_untrained", "--eval_examples", "sst=5,quora=999", "--resume", "auto", "--logging_steps", "7"]
    again = train(parse([*words, "--output_dir", str(run), *flags]))
    assert again["scores"] == result["scores"]
    assert again["steps"] == result["steps"]


def test_resume_without_a_run_starts_anew(words, tmp_path):
    args = parse([*words, "--output_dir", str(tmp_path / "out"), "--resume", "auto"])
    assert prepare_output(args, tmp_path / "out") is None


# A killed run goes on as if nothing had happened.  14 steps an epoch, a checkpoint every third step: all mid-epoch.

MIDDLE = """
    --save_strategy steps --save_steps 3 --eval_strategy steps --eval_steps 3 --load_best_model_at_end false
    --save_total_limit 20 --head_dropout 0.3 --dropout 0.2 --weighted_sampling true
"""


def final_weights(folder: Path) -> dict[str, bytes]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def test_an_interrupted_interleaved_run_goes_on_in_its_second_epoch(words, tmp_path):
    keys = [*words, *MIDDLE.split(), "--order", "interleaved"]
    whole = train(parse([*keys, "--output_dir", str(tmp_path / "whole")]))
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("arguments.yaml", "checkpoint-15", "checkpoint-18"):
        source = tmp_path / "whole" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, killed / name)
    # the kill came while the next checkpoint was being written
    shutil.copytree(tmp_path / "whole" / "checkpoint-21", killed / "checkpoint-21")
    (killed / "checkpoint-21" / "trainer_state.json").unlink()
    assert newest_whole(killed) == killed / "checkpoint-18"
    again = train(parse([*keys, "--output_dir", str(killed), "--resume", "auto"]))
    assert final_weights(killed) == final_weights(tmp_path / "whole")
    assert again["scores"] == whole["scores"]
    assert again["steps"] == whole["steps"] == 28


STALL = """
import sys, time
from qabert.cli import train_main
from qabert.training.trainer import QABertTrainer

step = QABertTrainer.training_step

def stalling(self, *args, **kwargs):
    if self.state.global_step == 8:
        print("reached step 8", flush=True)
        time.sleep(500)
    return step(self, *args, **kwargs)

QABertTrainer.training_step = stalling
train_main(sys.argv[1:])
"""


def test_a_killed_sequential_run_goes_on_under_accelerate_to_the_same_bits(words, tmp_path):
    keys = [*words, *MIDDLE.split(), "--order", "sequential", "--head_learning_rate", "5e-3"]
    whole = train(parse([*keys, "--output_dir", str(tmp_path / "whole")]))
    killed = tmp_path / "killed"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", STALL, *keys, "--output_dir", str(killed)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "reached step 8" in line:
                break
        process.kill()  # SIGKILL
        assert process.wait(30) == -9, "".join(seen)
    finally:
        process.kill()
        process.stdout.close()
    assert newest_whole(killed) == killed / "checkpoint-6"
    assert not (killed / "metrics.json").exists()

    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_config.yaml",
         "scripts/train.py", *keys, "--output_dir", str(killed), "--resume", "auto"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on from" in done.stdout
    assert final_weights(killed) == final_weights(tmp_path / "whole")
    again = json.loads((killed / "metrics.json").read_text(encoding="utf-8"))
    assert again["scores"] == whole["scores"]
    assert "Traceback" not in done.stderr
