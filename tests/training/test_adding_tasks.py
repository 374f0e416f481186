"""A trained model learns another task: what it could do stays, is trained along, or is said to be lost."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.tasks import PAPER_TASKS, SST
from qabert.training.adding_tasks import LOSS
from qabert.training.recipes import parse
from qabert.training.run import train

WORDS = ["red", "blue", "green", "one", "two"]
FLAGS = [
    "--use_cpu=true", "--disable_tqdm=true", "--per_device_train_batch_size=12", "--num_train_epochs=1",
    "--learning_rate=1e-3", "--logging_steps=5",
]  # fmt: skip
ROWS = [("ab cd ef gh.", "ij kl mn."), ("op qr st uv wx yz.", "aa bb cc.")]


@pytest.fixture(scope="module")
def color(tmp_path_factory) -> Path:
    """A YAML file of a task that the models don't have."""
    folder, rng = tmp_path_factory.mktemp("color"), random.Random(0)
    for split, count in (("train", 40), ("dev", 12)):
        lines = [
            json.dumps({"text": f"ab {rng.choice(WORDS)} cd ef", "color": rng.choice(["x", "y"])}) for _ in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task = {
        "problem": "classification", "question": "Which color is this?", "labels": ["x", "y"],
        "columns": {"text_a": "text", "label": "color"}, "files": {"train": "train.jsonl", "dev": "dev.jsonl"},
    }  # fmt: skip
    (folder / "color.yaml").write_text(yaml.safe_dump({"tasks": {"color": task}}), encoding="utf-8")
    return folder / "color.yaml"


@pytest.fixture(scope="module")
def base(tmp_path_factory, save_checkpoint) -> str:
    """A model of `sst` and `sts` with priors, whose settings aren't the defaults."""
    settings = {"input_format": "joint", "max_length": 64, "pooling": "mean", "head_width": 8, "head_dropout": 0.0}
    tasks = [PAPER_TASKS["sst"], PAPER_TASKS["sts"]]
    priors = {"sst": [0.5, 0.2, 0.1, 0.1, 0.1]}
    return save_checkpoint(tmp_path_factory.mktemp("base"), tasks=tasks, priors=priors, freeze_encoder=True, **settings)


@pytest.fixture(scope="module")
def both(color) -> Path:
    """The new task and one of the model's own, by its name alone."""
    values = yaml.safe_load(color.read_text(encoding="utf-8"))
    values["tasks"] = {"sst": {}} | values["tasks"]
    path = color.parent / "both.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def answers(path, task):
    rows = ROWS if task == "sts" else [(a, None) for a, _ in ROWS]
    return [logits.tolist() for logits in Predictor.from_pretrained(str(path), "cpu").answers(task, rows)]


def weights(path):
    return load_file(Path(path) / "model.safetensors")


def test_with_a_frozen_encoder_the_old_answers_stay_to_the_last_bit(base, color, tmp_path, capsys):
    output = tmp_path / "out"
    result = train(
        parse([*FLAGS, "--model", base, "--tasks", str(color), "--output_dir", str(output), "--freeze_encoder"])
    )
    said = capsys.readouterr().out
    assert f"starting from model '{base}'; new: color; kept: sst, sts" in said
    assert "warning: the encoder" not in said
    assert result["before"] is None
    for task in ("sst", "sts"):
        assert answers(base, task) == answers(output, task)
    old, new = weights(base), weights(output)
    assert all(new[name].equal(value) for name, value in old.items())
    assert {name.split(".")[1] for name in set(new) - set(old)} == {"head_color"}
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert [task["name"] for task in config["tasks"]] == ["sst", "sts", "color"]
    assert set(config["priors"]) == {"sst", "color"}
    assert config["freeze_encoder"] is True
    saved = yaml.safe_load((output / "arguments.yaml").read_text(encoding="utf-8"))
    assert {key: saved[key] for key in ("model", "encoder", "format", "pooling", "head_width", "head_dropout")} == {
        "model": base, "encoder": base, "format": "joint", "pooling": "mean", "head_width": 8, "head_dropout": 0.0,
    }  # fmt: skip


def test_trained_along_the_encoder_and_the_head_learn_and_the_kept_head_does_not(
    base, both, course_folder, tmp_path, capsys
):
    output = tmp_path / "out"
    words = [*FLAGS, "--model", base, "--tasks", str(both), "--data", str(course_folder), "--output_dir", str(output)]
    result = train(parse([*words, "--examples_per_epoch", "sst=24"]))
    said = capsys.readouterr().out
    assert "new: color; trained along: sst; kept: sts\nwarning: the encoder changes under the heads of sts" in said
    assert list(result["before"]) == ["sst"]
    assert result["before"]["sst"]["accuracy"] == pytest.approx(
        train_free_score(base, course_folder), abs=1e-6
    )  # with the priors that it had
    assert "kept" not in result["warnings"][0]
    old, new = weights(base), weights(output)
    moved = {name for name, value in old.items() if not new[name].equal(value)}
    assert any(name.startswith("encoder.") for name in moved)
    assert {name.split(".")[1] for name in moved if name.startswith("heads.")} == {"head_sst"}
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert config["freeze_encoder"] is False
    assert config["priors"]["sst"] != [0.5, 0.2, 0.1, 0.1, 0.1]  # as of any task that is trained: this run's rows
    before, table = said.index("before"), said[said.index("metric (dev)") :]
    assert before
    assert [line.split()[-2] == "-" for line in table.splitlines()[2:6]] == [False, False, True, True]


def train_free_score(model, folder):
    from qabert.data.sources import load_task
    from qabert.evaluation.scores import answer_rows, score_answers

    rows = load_task(SST, folder, ("dev",)).splits["dev"]
    return score_answers(SST, answer_rows(Predictor.from_pretrained(model, "cpu"), "sst", rows), rows["label"])[
        "accuracy"
    ]


def test_an_old_task_without_rows_is_scored_and_its_loss_is_told(base, both, course_folder, tmp_path):
    output = tmp_path / "out"
    words = [*FLAGS, "--model", base, "--tasks", str(both), "--data", str(course_folder), "--output_dir", str(output)]
    result = train(parse([*words, "--examples_per_epoch", "sst=0", "--learning_rate", "1e-2"]))
    old, new = weights(base), weights(output)
    assert all(new[name].equal(value) for name, value in old.items() if name.startswith("heads."))
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert config["priors"]["sst"] == [0.5, 0.2, 0.1, 0.1, 0.1]
    lost = result["before"]["sst"]["accuracy"] - result["scores"]["sst"]["accuracy"]
    assert any(line.startswith("task 'sst' lost") for line in result["warnings"]) == (lost > LOSS)
    assert not any("'sst' was never better" in line for line in result["warnings"])


def test_a_run_that_was_cut_goes_on_to_the_same_bits(base, both, course_folder, tmp_path):
    words = [*FLAGS, "--model", base, "--tasks", str(both), "--data", str(course_folder), "--num_train_epochs", "2"]
    whole = train(parse([*words, "--output_dir", str(tmp_path / "whole")]))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for path in (tmp_path / "cut").iterdir():
        if path.name not in ("arguments.yaml", "config.json") and not path.name.startswith("checkpoint-"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    last = max((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    again = train(parse([*words, "--output_dir", str(tmp_path / "cut"), "--resume", "auto"]))
    assert again["scores"] == whole["scores"]
    assert again["before"] == whole["before"]
    old, new = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(new[name].equal(value) for name, value in old.items())
    with pytest.raises(InputError, match="key 'encoder' was"):
        train(parse([*words[: words.index("--model")], *words[words.index("--model") + 2 :], "--output_dir",
                     str(tmp_path / "cut"), "--resume", "auto", "--tasks", "sst"]))  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--format qa", "key 'format' is 'qa', but model '{base}' was trained with 'joint': remove the key"),
        ("--head_blocks 4", "key 'head_blocks' is 4, but model '{base}' was trained with 1"),
        ("--max_length 128", "key 'max_length' is 128, but model '{base}' was trained with 64"),
        ("--encoder minilm", "keys 'encoder' and 'model' exclude each other"),
        ("--triplet_loss ranking", "key 'triplet_loss' trains an encoder that has no heads yet"),
        ("--examples_per_epoch color=0", "task 'color': 0 rows; expected at least 1: only a task that 'model' has"),
        ("--tasks sst --examples_per_epoch sst=0", "every task has 0 rows"),
        ("--tasks sts,ssst", "unknown task 'ssst' (did you mean 'sst'?)"),
        ("--output_dir {base}", "key 'model': '{base}' is in output_dir {base}"),
    ],
)
def test_what_does_not_go_together_is_an_error(base, color, tmp_path, flags, message):
    words = ["--model", base, "--tasks", str(color), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError) as error:
        train(parse([*words, *flags.format(base=base).split()]))
    assert message.format(base=base) in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["bad", "good"]}, "task 'sst', key 'labels': model '{base}' has a task of this name with"),
        ({"question": "Is it good?"}, "task 'sst', key 'question'"),
        ({"columns": {"text_a": "one", "text_b": "two", "label": "label"}}, "task 'sst', key 'context'"),
    ],
)
def test_an_old_name_for_another_task_is_an_error(base, tmp_path, changes, message):
    path = tmp_path / "tasks.yaml"
    changes = changes | {"files": {"train": "a.csv", "dev": "b.csv"}}
    path.write_text(yaml.safe_dump({"tasks": {"sst": changes}}), encoding="utf-8")
    with pytest.raises(InputError) as error:
        train(parse(["--model", base, "--tasks", str(path), "--output_dir", str(tmp_path / "out")]))
    assert message.format(base=base) in str(error.value)


def test_a_model_without_tasks_to_learn_or_without_a_model(base, encoder_path, tmp_path):
    with pytest.raises(InputError, match="key 'tasks' is missing: name the tasks that model"):
        parse(["--model", base])
    with pytest.raises(InputError, match="expected one that qabert trained"):
        train(parse(["--model", encoder_path, "--tasks", "sst", "--output_dir", str(tmp_path / "out")]))
    with pytest.raises(InputError, match="key 'model' is empty"):
        parse(["--model", "", "--tasks", "sst"])


def test_a_task_of_ones_own_is_known_by_its_name_once_a_model_has_it(base, color, tmp_path):
    """Where its rows are is all that has to be said to train it along."""
    train(
        parse(
            [
                *FLAGS,
                "--model",
                base,
                "--tasks",
                str(color),
                "--output_dir",
                str(tmp_path / "first"),
                "--freeze_encoder",
            ]
        )
    )
    path = color.parent / "again.yaml"
    path.write_text("tasks: {color: {files: {train: train.jsonl, dev: dev.jsonl}}}", encoding="utf-8")
    args = parse(["--model", str(tmp_path / "first"), "--tasks", str(path)])
    assert args.load_tasks()["color"].question == "Which color is this?"
