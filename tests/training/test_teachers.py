"""Teachers: their answers reach the rows they belong to, and what can't teach is named before anything long begins."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from qabert.data.augmentation import further_rows
from qabert.data.sources import load_data
from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.tasks import PAPER_TASKS, Task
from qabert.training import run as run_module
from qabert.training import teachers as teachers_module
from qabert.training.arguments import RunArguments
from qabert.training.recipes import parse
from qabert.training.run import train
from qabert.training.teachers import check_teachers
from qabert.training.teachers import teach as teach_rows

WORDS = """
    --format joint --max_length 32 --head_blocks 1 --use_cpu true --disable_tqdm true --num_train_epochs 1
    --learning_rate 5e-3 --per_device_train_batch_size 8 --save_strategy no --load_best_model_at_end false
    --examples_per_epoch sst=16,sts=16,quora=16 --eval_examples sst=8,sts=8,quora=8
"""


@pytest.fixture(scope="module")
def models(save_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return [save_checkpoint(folder / name, input_format=form) for name, form in (("a", "qa"), ("b", "joint"))]


def teach(teachers, rows, args, **keys):
    """Answers by task, without features."""
    run = RunArguments(teachers=teachers, **keys)
    features = {name: {"train": data.splits["train"]} for name, data in rows.items()}
    taught, ids = teach_rows(run, PAPER_TASKS, rows, features, lambda name, more: more, args)
    assert {name: list(rows[name].splits["train"]["id"]) for name in teachers} == ids
    return {name: one.answers for name, one in taught.items()}


def words(course_folder, encoder_path, output, *more):
    return [*WORDS.split(), "--data", str(course_folder), "--encoder", encoder_path, "--output_dir", str(output), *more]


def test_several_teachers_answer_with_their_mean(models, course_folder):
    tasks = {name: PAPER_TASKS[name] for name in ("sst", "sts")}
    rows = load_data(tasks, str(course_folder))
    args = RunArguments(trainer={"use_cpu": True, "disable_tqdm": True}).training_arguments()
    found = teach({"sst": models, "sts": models[:1]}, rows, args)
    given = rows["sst"].splits["train"]
    pairs = list(zip(given["text_a"], given["text_b"], strict=True))
    each = [np.concatenate(list(Predictor.from_pretrained(m, "cpu").answers("sst", pairs))) for m in models]
    np.testing.assert_allclose(found["sst"], np.mean(each, axis=0), atol=1e-6)
    assert found["sst"].sum(-1) == pytest.approx(np.ones(len(pairs)), abs=1e-5)
    assert found["sts"].shape == (len(rows["sts"].splits["train"]),)


def test_answers_are_kept_by_what_they_follow_from(models, course_folder, tmp_path, monkeypatch):
    from qabert.checkpoints import write_checksums
    from qabert.data import cache

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALLEST", 1)
    folders = [tmp_path / "one", tmp_path / "two"]
    for model, folder in zip(models, folders, strict=True):
        shutil.copytree(model, folder)
        write_checksums(folder)
    rows = load_data({"sst": PAPER_TASKS["sst"]}, str(course_folder), cache=True)
    args = RunArguments(trainer={"use_cpu": True, "disable_tqdm": True}).training_arguments()
    asked = []
    real = Predictor.answers
    monkeypatch.setattr(Predictor, "answers", lambda self, *words: asked.append(1) or real(self, *words))
    first = teach({"sst": [str(folders[0])]}, rows, args)["sst"]
    assert len(asked) == 1
    np.testing.assert_array_equal(teach({"sst": [str(folders[0])]}, rows, args)["sst"], first)
    assert len(asked) == 1
    assert not np.allclose(teach({"sst": [str(folders[1])]}, rows, args)["sst"], first)
    assert len(asked) == 2
    args.bf16 = True
    teach({"sst": [str(folders[0])]}, rows, args)
    assert len(asked) == 3


def test_several_processes_share_a_teachers_rows(models, course_folder, tmp_path, monkeypatch):
    """Each begins at its own place and takes from the cache what others have, so a cut run goes on where it was."""
    from qabert.checkpoints import write_checksums
    from qabert.data import cache

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALLEST", 1)
    monkeypatch.setattr(teachers_module, "SHARE", 8)
    rows = load_data({"sst": PAPER_TASKS["sst"]}, str(course_folder), cache=True)["sst"]
    split, key = rows.splits["train"], rows.keys["train"]
    model = str(shutil.copytree(models[0], tmp_path / "model"))
    write_checksums(tmp_path / "model")
    number = {text: row for row, text in enumerate(split["text_a"])}
    args = SimpleNamespace(bf16=False, device="cpu", disable_tqdm=True, process_index=0, world_size=2)
    expected = teachers_module._answers(model, "sst", split, None, args)
    assert len(expected) == len(split) > 30
    asked = []
    real = Predictor.answers

    def answers(self, task, pairs):
        pairs = list(pairs)
        asked.append(number[pairs[0][0]])
        if len(asked) == stop:
            raise KeyboardInterrupt
        return real(self, task, pairs)

    monkeypatch.setattr(Predictor, "answers", answers)
    stop, args.process_index = 3, 1
    with pytest.raises(KeyboardInterrupt):
        teachers_module._answers(model, "sst", split, key, args)
    starts = list(range(0, len(split), 8))
    half = len(starts) // 2
    assert asked == starts[half : half + 3]
    stop, args.process_index = None, 0
    asked.clear()
    np.testing.assert_allclose(teachers_module._answers(model, "sst", split, key, args), expected, atol=1e-6)
    assert asked == [*starts[:half], *starts[half + 2 :]]
    args.process_index = 1
    np.testing.assert_allclose(teachers_module._answers(model, "sst", split, key, args), expected, atol=1e-6)
    assert len(asked) == len(starts) - 2


@pytest.mark.parametrize("both", ["true", "false"])
def test_every_drawn_row_has_its_own_teachers_answer(models, course_folder, encoder_path, tmp_path, monkeypatch, both):
    seen, kept = [], {}
    real = run_module.build_trainer

    def spied(*args, **kwargs):
        trainer = kept["trainer"] = real(*args, **kwargs)
        collate = trainer.data_collator

        def remember(features):
            seen.extend((f["task"], f["length"], tuple(f["input_ids"][0]), f.get("teacher")) for f in features)
            return collate(features)

        trainer.data_collator = remember
        return trainer

    monkeypatch.setattr(run_module, "build_trainer", spied)
    teachers = ["--teachers", f"sst={models[0]},sts={models[1]},sts={models[0]}", "--both_orders", both]
    train(parse([*words(course_folder, encoder_path, tmp_path / "run"), *teachers]))
    rows = load_data(PAPER_TASKS, str(course_folder))
    args = kept["trainer"].args
    answers = teach({"sst": models[:1], "sts": models}, rows, args)
    tokenizer = kept["trainer"].processing_class
    for name in ("sst", "sts"):
        used = rows[name].splits["train"]
        expected = {}
        for number, (a, b) in enumerate(zip(used["text_a"], used["text_b"], strict=True)):
            for texts in {(a, b), (b, a) if b else (a, b)}:
                ids = tokenizer(*texts)["input_ids"]
                if len(ids) <= 32:
                    expected[tuple(ids)] = answers[name][number]
        found = [
            (ids, answer) for task, _, ids, answer in seen if task == name and ids in expected and answer is not None
        ]
        assert len(found) >= 8
        for ids, answer in found:
            np.testing.assert_allclose(answer, expected[ids], atol=1e-6)
    assert all(answer is None for task, *_, answer in seen if task == "quora")


def test_a_student_follows_its_teacher(save_checkpoint, course_folder, encoder_path, tmp_path):
    """With all weight on a teacher whose answers are not the labels, its answers are what is learnt."""
    teacher = save_checkpoint(tmp_path / "teacher", input_format="joint", max_length=32)
    more = ["--tasks", "sts", "--learning_rate", "1e-2", "--num_train_epochs", "6", "--weighted_sampling", "false"]
    base = [w for w in words(course_folder, encoder_path, "", *more)]
    base[base.index("--examples_per_epoch") + 1] = "sts=48"
    base[base.index("--eval_examples") + 1] = "sts=8"
    rows = load_data({"sts": PAPER_TASKS["sts"]}, str(course_folder))["sts"].splits["train"]
    pairs = list(zip(rows["text_a"], rows["text_b"], strict=True))
    wanted = np.concatenate(list(Predictor.from_pretrained(teacher, "cpu").answers("sts", pairs)))
    apart = {}
    for name, keys in (("alone", []), ("taught", ["--teachers", f"sts={teacher}", "--teacher_weight", "1"])):
        base[base.index("--output_dir") + 1] = str(tmp_path / name)
        train(parse([*base, *keys]))
        found = np.concatenate(list(Predictor.from_pretrained(str(tmp_path / name), "cpu").answers("sts", pairs)))
        apart[name] = np.abs(found - wanted).mean()
    assert apart["taught"] < apart["alone"]


@pytest.fixture
def kept(monkeypatch):
    """What the run's `trainer` is, once it has been built."""
    kept = {}
    real = run_module.build_trainer

    def spied(*args, **kwargs):
        kept["trainer"] = real(*args, **kwargs)
        return kept["trainer"]

    monkeypatch.setattr(run_module, "build_trainer", spied)
    return kept


def test_parts_of_sentences_are_rows_that_the_teacher_labels(models, course_folder, encoder_path, tmp_path, kept):
    more = ["--teachers", f"sst={models[0]}", "--augment", "sst=3", "--teacher_weight", "0.25"]
    base = words(course_folder, encoder_path, tmp_path / "run", *more)
    result = train(parse(base))
    trainer = kept["trainer"]
    taught = trainer.train_dataset.datasets[0]
    rows = load_data(PAPER_TASKS, str(course_folder))["sst"].splits["train"]
    ids = trainer.row_ids["sst"]
    assert len(rows) < len(taught) == len(ids) <= 4 * len(rows)
    assert set(taught.weights[: len(rows)].tolist()) == {0.25} and set(taught.weights[len(rows) :].tolist()) == {1.0}
    assert ids[len(rows)].endswith(" part 1")
    texts = trainer.processing_class.batch_decode(
        [row["input_ids"][0] for row in taught.features], skip_special_tokens=True
    )
    sentences = {name: text for name, text in zip(ids, texts, strict=True) if " part " not in name}
    for number in range(len(rows), len(taught)):
        name, label = ids[number], taught.features[number]["labels"]
        assert label == taught.answers[number].argmax()
        assert texts[number].split()[0] in sentences[name.rsplit(" part ", 1)[0]]
    pairs = [(text, None) for text in texts[len(rows) :]]
    wanted = np.concatenate(list(Predictor.from_pretrained(models[0], "cpu").answers("sst", pairs)))
    np.testing.assert_allclose(taught.answers[len(rows) :], wanted, atol=1e-4)
    # The data that is told of, and what the majority is of, are the rows that were given.
    assert result["data"]["sst"]["train"]["used"] == len(rows)


def test_seeds_share_the_further_rows_and_their_answers(models, course_folder, tmp_path, monkeypatch):
    """Teachers answer for hours; three seeds of a student would otherwise ask them three times."""
    from qabert.checkpoints import write_checksums
    from qabert.data import cache

    teacher = shutil.copytree(models[0], tmp_path / "teacher")
    write_checksums(teacher)

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALLEST", 1)
    asked = []
    real = Predictor.answers
    monkeypatch.setattr(Predictor, "answers", lambda self, *words: asked.append(1) or real(self, *words))
    rows = load_data({"sst": PAPER_TASKS["sst"]}, str(course_folder), cache=True)
    run = RunArguments(teachers={"sst": str(teacher)}, augment={"sst": 2})
    found = []
    for seed in (1, 2):
        args = RunArguments(trainer={"use_cpu": True, "disable_tqdm": True, "seed": seed}).training_arguments()
        features = {"sst": {"train": rows["sst"].splits["train"]}}
        taught, ids = teach_rows(run, PAPER_TASKS, rows, features, lambda name, more: more, args)
        found.append((taught["sst"].answers.tolist(), ids, len(asked)))
    assert found[0] == found[1] and found[0][2] > 0


def test_what_can_not_teach_is_named(save_checkpoint, tmp_path):
    other = Task(name="sst", problem="classification", question="?", labels=("low", "high"))
    model = save_checkpoint(tmp_path / "m", tasks=[other])
    for teachers, message in (
        ({"sts": [model]}, r"key 'teachers', model '.*'.*'sts'.*sst"),
        ({"sst": [model]}, r"its task 'sst' has labels \('low', 'high'\), the run's has"),
        ({"stt": [model]}, r"key 'teachers'.*'stt'.*did you mean"),
        ({"sst": [str(tmp_path / "none")]}, "model '.*none'"),
    ):
        with pytest.raises(InputError, match=message):
            check_teachers(teachers, PAPER_TASKS)
    for augment, message in (
        ({"sst": 2}, "nobody labels the further rows"),
        ({"stt": 2}, "'stt'.*did you mean"),
    ):
        with pytest.raises(InputError, match=message):
            check_teachers({"sts": []}, PAPER_TASKS, augment)
    with pytest.raises(InputError, match="'teachers' and 'freeze_encoder'"):
        RunArguments(teachers={"sst": model}, freeze_encoder=True)
    for value in ("sst", {"sst": []}, {"sst": 3}, ["a"]):
        with pytest.raises(InputError, match=r"key 'teachers' has .*; expected a model"):
            RunArguments(teachers=value)


def test_new_pairs_are_rows_that_the_teacher_labels(models, course_folder, encoder_path, tmp_path, kept):
    """Trained in both orders like the rows that were given, and answered as they are."""
    more = ["--teachers", f"sts={models[0]}", "--augment", "sts=2", "--both_orders", "true"]
    result = train(parse(words(course_folder, encoder_path, tmp_path / "run", *more)))
    trainer = kept["trainer"]
    taught = trainer.train_dataset.datasets[list(PAPER_TASKS).index("sts")]
    rows = load_data(PAPER_TASKS, str(course_folder))["sts"].splits["train"]
    new = further_rows(rows, True, 2)
    count = len(rows) + len(new)
    assert len(new) > len(rows) and len(taught) == 2 * count and len(taught.answers) == count
    assert trainer.row_ids["sts"] == [*rows["id"], *new["id"]]
    pairs = list(zip(new["text_a"], new["text_b"], strict=True))
    wanted = np.concatenate(list(Predictor.from_pretrained(models[0], "cpu").answers("sts", pairs)))
    np.testing.assert_allclose(taught.answers[len(rows) :], wanted, atol=1e-4)
    for number, (a, b) in enumerate(pairs, len(rows)):
        for at, texts in ((number, (a, b)), (number + count, (b, a))):
            ids = trainer.processing_class(*texts)["input_ids"]
            assert len(ids) > 32 or taught[at]["input_ids"][0] == ids
    for number, label in enumerate(wanted):
        assert abs(taught[len(rows) + number]["labels"] - label) < 1e-4
    assert result["data"]["sts"]["train"]["used"] == len(rows)
