"""Both orders of a pair: drawn evenly in training, averaged in answers."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from qabert.data.orders import BothOrders
from qabert.data.prompts import PromptEncoder
from qabert.data.sampling import TaskBatchSampler, TaskRows
from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.tasks import QUORA, SST, STS, Task
from qabert.training.recipes import parse
from qabert.training.run import train

WORDS = """
    --format joint --max_length 32 --head_blocks 1 --use_cpu true --disable_tqdm true --num_train_epochs 1
    --learning_rate 5e-3 --per_device_train_batch_size 8 --both_orders true --tasks sst,sts --save_strategy no
    --load_best_model_at_end false --eval_examples sts=10
"""
ROWS = [("ab cd ef gh", "ij"), ("kl", "mn op qr st uv"), ("ab", "ab cd")]


def test_an_exchanged_row_is_the_row_with_its_sentences_exchanged(tokenizer):
    def encoded(rows, exchanged):
        batch = {"text_a": [a for a, _ in rows], "text_b": [b for _, b in rows]}
        return PromptEncoder("joint", tokenizer, STS, 32, exchanged)(batch)

    assert encoded(ROWS, True) == encoded([(b, a) for a, b in ROWS], False)
    assert encoded(ROWS, True) != encoded(ROWS, False)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_drawn_row_comes_in_either_form_evenly(weighted):
    rows = {
        "one": TaskRows(np.full(500, 7), np.zeros(500, int)),
        "two": TaskRows(np.arange(800) % 9 + 3, np.arange(800) % 3, variants=2),
        "three": TaskRows(np.full(300, 7), np.zeros(300, int)),
    }
    sampler = TaskBatchSampler(rows, 16, order="interleaved", weighted=weighted)
    plain = TaskBatchSampler(
        {**rows, "two": TaskRows(np.arange(800) % 9 + 3, np.arange(800) % 3)}, 16, weighted=weighted
    )
    drawn = np.concatenate(list(sampler))
    two = drawn[(drawn >= 500) & (drawn < 2100)] - 500
    assert ((drawn < 500).sum(), len(two), (drawn >= 2100).sum()) == (500, 800, 300)
    assert 320 < (two >= 800).sum() < 480  # of 800 even draws: six standard deviations
    before = np.concatenate(list(plain))
    before = before[(before >= 500) & (before < 1300)] - 500
    assert sorted(two % 800) == sorted(before)  # which rows are drawn doesn't change
    assert [list(b) for b in sampler] == [list(b) for b in sampler]
    sampler.set_epoch(1)
    assert np.concatenate(list(sampler)).tolist() != drawn.tolist()


@pytest.mark.parametrize("input_format", ["qa", "joint", "separate"])
def test_answers_do_not_depend_on_the_order(save_checkpoint, tmp_path, input_format):
    folder = save_checkpoint(tmp_path / "m", both_orders=True, input_format=input_format)
    plain = save_checkpoint(tmp_path / "p", input_format=input_format)
    predictor, single = Predictor.from_pretrained(folder, "cpu"), Predictor.from_pretrained(plain, "cpu")
    exchanged = [(b, a) for a, b in ROWS]
    for task in ("sts", "quora"):
        one, other = (np.concatenate(list(predictor.logits(task, rows))) for rows in (ROWS, exchanged))
        np.testing.assert_allclose(one, other, atol=1e-5)
        apart = [np.concatenate(list(single.logits(task, rows))) for rows in (ROWS, exchanged)]
        assert not np.allclose(*apart, atol=1e-3)
        np.testing.assert_allclose(one, np.mean(apart, axis=0), atol=1e-5)
    assert predictor.embed("sts", ROWS).shape == single.embed("sts", ROWS).shape
    assert list(predictor.predict("sst", [("ab cd", None)])) == list(single.predict("sst", [("ab cd", None)]))


@pytest.mark.parametrize("frozen", ["", "--freeze_encoder true", "of a model"])
def test_a_run_scores_as_its_model_answers(encoder_path, course_folder, save_checkpoint, tmp_path, frozen):
    output = tmp_path / "run"
    words = [*WORDS.split(), "--data", str(course_folder), "--output_dir", str(output)]
    if frozen == "of a model":  # which says itself that it answers in both orders
        model = save_checkpoint(tmp_path / "m", tasks=[SST, STS], both_orders=True, input_format="joint", max_length=32)
        for key in ("--both_orders", "--format", "--head_blocks", "--max_length"):
            del words[words.index(key) : words.index(key) + 2]
        words += ["--model", str(model), "--freeze_encoder", "true"]
    else:
        words += ["--encoder", encoder_path, *frozen.split()]
    result = train(parse(words))
    with (course_folder / "sts-dev.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["sentence1"], row["sentence2"]) for row in csv.DictReader(file, delimiter="\t")]
    values = np.concatenate(list(Predictor.from_pretrained(str(output), "cpu").answers("sts", rows)))
    with (output / "predictions" / "sts-dev.csv").open(encoding="utf-8", newline="") as file:
        written = [float(row["prediction"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(values, written, atol=1e-4)
    assert result["steps"] == 6 + 7  # as many rows as without


def test_rows_can_be_chosen(course_features):
    rows = course_features["sts"]["dev"]
    both = BothOrders(rows, rows)
    assert len(both.select([1, 2])) == 2 and both.select([1, 2])["labels"][0] == rows["labels"][1]
    assert len(both.both) == 2 * len(rows)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ordered": True, "problem": "binary", "labels": ()}, "key 'ordered': only a classification"),
        ({"symmetric": True}, "key 'symmetric': only rows with two sentences"),
        ({"ordered": "yes"}, "key 'ordered': 'yes'; expected true or false"),
    ],
)
def test_a_task_that_can_not_be_so(fields, message):
    with pytest.raises(InputError, match=message):
        Task(**({"name": "t", "problem": "classification", "question": "?", "labels": ("a", "b")} | fields))


def test_the_papers_tasks():
    assert (SST.ordered, STS.symmetric, QUORA.symmetric, STS.ordered) == (True, True, True, False)


def test_a_model_is_deterministic_in_both_orders(save_checkpoint, tmp_path):
    predictor = Predictor.from_pretrained(save_checkpoint(tmp_path / "m", both_orders=True), "cpu")
    with torch.no_grad():
        one = np.concatenate(list(predictor.logits("quora", ROWS, batch_size=1)))
        other = np.concatenate(list(predictor.logits("quora", ROWS, batch_size=3)))
    np.testing.assert_allclose(one, other, atol=1e-5)
