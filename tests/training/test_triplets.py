"""The triplet stage of a run: what it leaves, what it refuses, going on after a kill, two processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from qabert.checkpoints import write_checksums
from qabert.data.sources import load_data
from qabert.errors import InputError
from qabert.tasks import PAPER_TASKS
from qabert.training import triplets
from qabert.training.recipes import parse
from qabert.training.run import train
from qabert.training.trainer import QABertTrainer
from qabert.training.triplet_trainer import TripletTrainer
from qabert.training.triplets import CHECKPOINTS, STAGE, dev_frames, load_stage, start_encoder, tokenise


@pytest.fixture(scope="module")
def words(encoder_path, course_folder):
    """Flags of a short run with both stages; dropout, so that a wrong random state is seen."""
    return (
        f"--data {course_folder} --encoder {encoder_path} --format separate --max_length 64 --head_blocks 1 "
        "--use_cpu true --disable_tqdm true --per_device_train_batch_size 24 --num_train_epochs 1 --dropout 0.2 "
        "--learning_rate 1e-3 --logging_steps 2 --save_strategy steps --save_steps 2 --eval_strategy no "
        "--load_best_model_at_end false --save_total_limit 20 "
        "--triplet_loss ranking --triplet_batch_size 16 --triplet_learning_rate 1e-3 --triplet_examples sts=32"
    ).split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, words):
    """Folder and result of a whole run."""
    output = tmp_path_factory.mktemp("run") / "out"
    return output, train(parse([*words, "--output_dir", str(output)]))


def encoder_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    one, other = encoder_weights(a), encoder_weights(b)
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# What a stage leaves


def test_the_stage_leaves_an_encoder_that_any_program_can_load(finished, encoder_path):
    output = finished[0]
    folder = output / STAGE
    assert not [path.name for path in output.iterdir() if path.name.endswith(".part") or path.name == CHECKPOINTS]
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "metrics.json"}
    encoder, before = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(encoder_path)
    assert type(encoder) is type(before)
    assert not torch.equal(encoder.embeddings.word_embeddings.weight, before.embeddings.word_embeddings.weight)
    assert AutoTokenizer.from_pretrained(folder)("ab cd")["input_ids"] == [2, *encoder_ids("ab cd", encoder_path), 3]
    for path in folder.iterdir():
        text = path.read_bytes()
        assert encoder_path.encode() not in text, path
        assert str(output).encode() not in text, path


def encoder_ids(text: str, path: str) -> list[int]:
    return AutoTokenizer.from_pretrained(path)(text, add_special_tokens=False)["input_ids"]


def test_metrics_of_the_stage(finished):
    output, result = finished
    held = json.loads((output / STAGE / "metrics.json").read_text(encoding="utf-8"))
    assert result["triplet"] == held
    assert json.loads((output / "metrics.json").read_text(encoding="utf-8"))["triplet"] == held
    expected = {"positive_distance", "negative_distance", "nearer", "hinge_zero", "loss"}
    for when in ("before", "after"):
        assert {name: set(of) - {"cosine_spearman"} for name, of in held[when].items()} == {
            name: expected for name in PAPER_TASKS
        }
        assert [name for name, of in held[when].items() if "cosine_spearman" in of] == ["sts"]
    assert held["before"] != held["after"]
    assert held["loss"] == "ranking"
    assert held["frames"]["sst"] == 48
    # steps of at most 16 frames of one task: all of SST and Quora, 32 of STS
    assert held["steps"] == 3 + 2 + -(-held["frames"]["quora"] // 16)
    assert set(held["skipped"]) == set(PAPER_TASKS)
    losses = [entry for entry in held["history"] if "loss" in entry]
    assert [entry["step"] for entry in losses] == list(range(2, held["steps"] + 1, 2))
    assert all(0 <= entry["hinge_zero"] <= 1 and entry["loss"] > 0 for entry in losses)
    assert losses[0]["learning_rate"] <= 1e-3


def test_a_run_that_starts_from_the_stages_folder_ends_the_same(finished, words, tmp_path):
    """The multitask stage starts from the encoder and nothing else: no state of the first stage reaches it."""
    flags = words[: words.index("--triplet_loss")]
    flags[flags.index("--encoder") + 1] = str(finished[0] / STAGE)
    result = train(parse([*flags, "--output_dir", str(tmp_path / "out")]))
    assert result["triplet"] is None
    assert result["scores"] == finished[1]["scores"]
    assert same(tmp_path / "out", finished[0])
    assert not (tmp_path / "out" / STAGE).exists()


# Frames


def test_dev_frames_are_few_and_the_same_for_every_seed(course_folder, tokenizer, words, monkeypatch):
    rows = load_data(PAPER_TASKS, course_folder)
    monkeypatch.setattr(triplets, "DEV_FRAMES", 7)
    stages = [load_stage(parse([*words, "--seed", seed]), PAPER_TASKS, rows, tokenizer) for seed in ("1", "1", "2")]
    assert [len(frames) for frames in stages[0].dev.frames.values()] == [7, 7, 7]
    assert all(np.array_equal(stages[0].dev.frames[name], stages[2].dev.frames[name]) for name in PAPER_TASKS), (
        "measures have to compare between runs"
    )
    assert stages[0].dev.sentences["input_ids"][:] == stages[2].dev.sentences["input_ids"][:]
    positives = [stage.train.frames["sst"]["positive"][:] for stage in stages]
    assert positives[0] == positives[1] != positives[2]


def test_dev_frames_and_pairs_point_to_their_texts(course_folder, tokenizer):
    dev = {name: data.splits["dev"] for name, data in load_data(PAPER_TASKS, course_folder).items()}
    built = dev_frames(PAPER_TASKS, dev, tokenizer, 64)
    ids = [tuple(one) for one in built.sentences["input_ids"]]
    assert len(set(ids)) == len(ids)

    def tokens(text):
        return tuple(tokenizer(text)["input_ids"])

    pairs, labels = built.pairs["sts"]
    assert list(built.pairs) == ["sts"]
    assert labels.tolist() == dev["sts"]["label"][:]
    for row, pair in zip(dev["sts"], pairs, strict=True):
        assert [ids[n] for n in pair] == [tokens(row["text_a"]), tokens(row["text_b"])]
    labels = {tokens(row["text_a"]): row["label"] for row in dev["sst"]}
    for anchor, positive, *negatives in built.frames["sst"]:
        own = labels[ids[anchor]]
        assert labels[ids[positive]] == own
        assert all(labels[ids[n]] != own for n in negatives[:3])
        assert not any(ids[n] in labels for n in negatives[3:])


def test_the_table_of_sentences_has_each_once(course_folder, tokenizer, words):
    rows = load_data(PAPER_TASKS, course_folder)
    stage = load_stage(parse(words), PAPER_TASKS, rows, tokenizer)
    texts = {
        text
        for data in rows.values()
        for key in ("text_a", "text_b")
        for text in data.splits["train"][key]
        if text is not None
    }
    assert len(stage.train.sentences) == len(texts)
    assert max(max(max(of["negatives"])) for of in stage.train.frames.values()) < len(texts)


def test_the_stages_arguments_are_the_runs_but_for_its_own(course_folder, tokenizer, words, tmp_path):
    rows = load_data(PAPER_TASKS, course_folder)
    flags = "--seed 3 --gradient_accumulation_steps 2 --lr_scheduler_type constant --max_steps 9 --save_strategy best"
    best = ["--eval_strategy", "epoch", "--load_best_model_at_end", "true", "--eval_on_start", "true"]
    args = parse([*words, *flags.split(), *best, "--triplet_epochs", "2", "--output_dir", str(tmp_path / "out")])
    stage = load_stage(args, PAPER_TASKS, rows, tokenizer).training_args
    assert (stage.seed, stage.gradient_accumulation_steps, stage.lr_scheduler_type) == (3, 2, "constant")
    assert (stage.per_device_train_batch_size, stage.learning_rate, stage.num_train_epochs) == (16, 1e-3, 2)
    assert (stage.max_steps, stage.eval_strategy.value, stage.save_strategy.value) == (-1, "no", "epoch")
    assert not stage.eval_on_start and not stage.load_best_model_at_end
    assert Path(stage.output_dir) == tmp_path / "out" / CHECKPOINTS
    assert stage.use_cpu and stage.disable_tqdm and not (tmp_path / "out").exists()


def test_tokenising_keeps_the_order(tokenizer):
    import datasets

    texts = ["ab", "<b>ab</b> \U0001f600 \u05e9\u05dc\u05d5\u05dd", "cd ef"]
    table = tokenise(datasets.Dataset.from_dict({"text": texts}), tokenizer, 64)
    assert [row["input_ids"] for row in table] == [tokenizer(text)["input_ids"] for text in texts]


# What is refused, before anything is loaded or written


class ModelLoaded(BaseException):
    """Not an Exception: those that come while a model is loaded are told as wrong input."""


@pytest.fixture
def no_model(monkeypatch):
    def load(*_, **__):
        raise ModelLoaded

    monkeypatch.setattr("qabert.modeling.QABertModel.from_encoder", load)


@pytest.mark.parametrize(("split", "told"), [("train", "train rows"), ("dev", "dev rows")])
def test_rows_that_make_no_frames(words, course_folder, tmp_path, no_model, split, told):
    folder = shutil.copytree(course_folder, tmp_path / "data")
    file = folder / f"ids-sst-{split}.csv"
    head, *rows = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([head, *(row[:-1] + "3" for row in rows)]) + "\n", encoding="utf-8")
    flags = [*words, "--data", str(folder), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError, match=f"triplets of the {told}: task 'sst'"):
        train(parse(flags))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelLoaded):
        train(parse([*flags[: flags.index("--triplet_loss")], *flags[flags.index("--triplet_examples") + 2 :]]))


def test_wrong_input_costs_no_finished_stage(finished, words, tmp_path, no_model):
    run = shutil.copytree(finished[0], tmp_path / "run")
    flags = [*words, "--output_dir", str(run), "--overwrite"]
    with pytest.raises(InputError):
        train(parse([*flags, "--data", str(tmp_path / "nowhere")]))
    with pytest.raises(ModelLoaded):
        train(parse(flags))
    assert same(run / STAGE, finished[0] / STAGE)


def test_a_checkpoint_of_the_stage_is_none_of_the_run(words, tmp_path, no_model):
    checkpoint = tmp_path / "old" / CHECKPOINTS / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    write_checksums(checkpoint)
    with pytest.raises(InputError, match="is of the triplet stage, which goes on with --resume auto"):
        train(parse([*words, "--output_dir", str(tmp_path / "out"), "--resume", str(checkpoint)]))


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ("--triplet_epochs 2", "triplet_epochs"),
        ("--triplet_examples sst=5", "triplet_examples"),
        ("--triplet_batch_size 8", "triplet_batch_size"),
        ("--triplet_learning_rate 1e-4", "triplet_learning_rate"),
    ],
)
def test_a_key_of_a_stage_that_is_not_run(flags, key):
    with pytest.raises(InputError, match=f"key '{key}' is of 'triplet_loss': set that too"):
        parse(flags.split())
    args = parse([*flags.split(), "--triplet_loss", "equation1"])
    assert args.triplet_loss == "equation1"


def test_wrong_values_of_the_stages_keys():
    for flags, told in (
        ("--triplet_loss equation", "did you mean 'equation1'"),
        ("--triplet_loss ranking --triplet_epochs 0", "'triplet_epochs' has '0'; expected a whole number at least 1"),
        ("--triplet_loss ranking --triplet_learning_rate 0", "'triplet_learning_rate' has '0'"),
        ("--triplet_loss ranking --triplet_batch_size 0", "'triplet_batch_size' has '0'"),
        ("--triplet_loss ranking --triplet_examples sst=0", "'triplet_examples', task 'sst': 0 rows"),
    ):
        with pytest.raises(InputError, match=told):
            parse(flags.split())
    with pytest.raises(InputError, match=r"key 'triplet_examples': unknown task 'sstt' .did you mean 'sst'"):
        parse(["--triplet_loss", "ranking", "--triplet_examples", "sstt=5"]).load_tasks()


# Going on after a kill


class Killed(BaseException):
    """Ends a run as a signal would: nothing in the package catches it."""


def killed(monkeypatch, trainer, step: int, flags: list[str]) -> None:
    """Run until `trainer` is about to take a step."""
    take = trainer.training_step

    def stop(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Killed
        return take(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer, "training_step", stop)
        train(parse(flags))


@pytest.fixture
def steps(monkeypatch):
    """Steps that each stage took."""
    taken = {TripletTrainer: 0, QABertTrainer: 0}

    def count(trainer):
        take = trainer.training_step

        def step(self, *args, **kwargs):
            taken[trainer] += 1
            return take(self, *args, **kwargs)

        monkeypatch.setattr(trainer, "training_step", step)

    for trainer in taken:
        count(trainer)
    return taken


def test_a_run_killed_inside_the_stage_goes_on_from_the_stages_checkpoint(
    finished, words, tmp_path, monkeypatch, capsys, steps
):
    output, result = finished
    flags = [*words, "--output_dir", str(tmp_path / "out"), "--resume", "auto"]
    killed(monkeypatch, TripletTrainer, 5, flags)
    assert (tmp_path / "out" / CHECKPOINTS / "checkpoint-4").is_dir()
    assert not (tmp_path / "out" / STAGE).exists()
    (tmp_path / "out" / f".{STAGE}.part").mkdir()  # a kill while the encoder was being written
    (tmp_path / "out" / f".{STAGE}.part" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "out" / f".{STAGE}.part" / "stray").touch()
    before = dict(steps)
    again = train(parse(flags))
    assert steps[TripletTrainer] - before[TripletTrainer] == result["triplet"]["steps"] - 4
    assert f"going on from {tmp_path / 'out' / CHECKPOINTS / 'checkpoint-4'}" in capsys.readouterr().out
    assert same(tmp_path / "out" / STAGE, output / STAGE)
    assert same(tmp_path / "out", output)
    assert again["scores"] == result["scores"]
    assert again["triplet"]["before"] == result["triplet"]["before"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in output.iterdir()}
    assert {path.name for path in (tmp_path / "out" / STAGE).iterdir()} == {
        path.name for path in (output / STAGE).iterdir()
    }


def test_a_run_killed_after_the_stage_does_not_repeat_it(finished, words, tmp_path, monkeypatch, capsys, steps):
    output, result = finished
    flags = [*words, "--output_dir", str(tmp_path / "out"), "--resume", "auto"]
    killed(monkeypatch, QABertTrainer, 0, flags)
    held = (tmp_path / "out" / STAGE / "metrics.json").read_text(encoding="utf-8")
    before = steps[TripletTrainer]
    assert before == result["triplet"]["steps"]
    again = train(parse(flags))
    assert steps[TripletTrainer] == before
    assert f"going on from {tmp_path / 'out' / STAGE}" in capsys.readouterr().out
    assert again["triplet"] == json.loads(held)
    assert again["scores"] == result["scores"]
    assert same(tmp_path / "out", output)


def test_a_checkpoint_of_the_multitask_stage_needs_no_triplet_stage(finished, words, tmp_path, steps):
    """Named and in another folder: its weights are those of both stages."""
    output, result = finished
    checkpoint = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for place, stage in ((output, result["triplet"]), (tmp_path / "moved", None)):
        place.mkdir(exist_ok=True)
        named = place / checkpoint.name
        if place != output:
            shutil.copytree(checkpoint, named)
        out = tmp_path / f"from-{place.name}"
        again = train(parse([*words, "--output_dir", str(out), "--resume", str(named)]))
        assert again["scores"] == result["scores"]
        assert again["triplet"] == stage
    assert steps[TripletTrainer] == 0


def test_where_the_multitask_stage_starts(words, tmp_path):
    out = tmp_path / "out"
    args = parse([*words, "--output_dir", str(out), "--resume", "auto"])
    assert start_encoder(args, "bert", None) is None
    assert start_encoder(args, "bert", str(tmp_path / "elsewhere" / "checkpoint-3")) == "bert"
    (out / STAGE).mkdir(parents=True)
    assert start_encoder(args, "bert", None) == str(out / STAGE)
    assert start_encoder(args, "bert", str(out / "checkpoint-3")) == str(out / STAGE)
    anew = parse([*words, "--output_dir", str(out), "--overwrite"])
    assert start_encoder(anew, "bert", None) is None, "what is about to be deleted is no start"
    none = parse([*words[: words.index("--triplet_loss")], "--output_dir", str(out)])
    assert start_encoder(none, "bert", None) == "bert"
