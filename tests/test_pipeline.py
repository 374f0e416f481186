"""`pipeline("qabert")` answers as the Predictor does, whatever rows come as, and a stream stays a stream."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from qabert import inference
from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.tasks import PAPER_TASKS

LOADED = """
from qabert.pipeline import QABertPipeline
pipe = pipeline("qabert", model={model!r}, device="cpu")
print(type(pipe) is QABertPipeline, sorted(pipe("ab cd", task="sst")))
"""


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_pretrained(trained, "cpu")


@pytest.fixture(scope="module")
def pipe(trained):
    from transformers import pipeline

    return pipeline("qabert", model=trained, device="cpu")


def rows_of(task: str, count: int) -> list:
    rng = random.Random(count)
    texts = [" ".join(rng.choices(["ab", "cd", "film", "?", "é"], k=rng.randint(1, 25))) for _ in range(2 * count)]
    return [tuple(texts[2 * n : 2 * n + 2]) if PAPER_TASKS[task].pair else (texts[n], None) for n in range(count)]


@pytest.mark.parametrize(
    "imports", ["import qabert\nfrom transformers import pipeline", "from transformers import pipeline\nimport qabert"]
)
def test_it_is_registered_in_either_order_of_imports(imports, trained):
    code = imports + LOADED.format(model=trained)
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.strip() == "True ['label', 'probabilities', 'score']"


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_answers_are_the_predictors(pipe, predictor, task, monkeypatch):
    monkeypatch.setattr(inference, "CHUNK", 16)
    rows = rows_of(task, 40)
    found = pipe([row if row[1] else row[0] for row in rows], task=task, batch_size=4)
    answers = np.concatenate(list(predictor.answers(task, rows, batch_size=4)))
    for one, answer, read in zip(found, answers, predictor.predict(task, rows, batch_size=4), strict=True):
        if task == "sts":
            assert one == {"value": float(answer)}
            assert read["value"] == round(one["value"], 4)
            continue
        assert one["label"] == read["label"]
        assert one["score"] == max(one["probabilities"].values()) == one["probabilities"][one["label"]]
        assert {name: round(share, 4) for name, share in one["probabilities"].items()} == read["probabilities"]
    alone = pipe(rows[3] if rows[3][1] else rows[3][0], task=task)
    assert alone.get("score", alone.get("value")) == pytest.approx(
        found[3].get("score", found[3].get("value")), abs=1e-5
    )


def test_rows_may_come_in_many_shapes(pipe):
    from datasets import Dataset
    from transformers.pipelines.pt_utils import KeyDataset

    pairs = rows_of("sts", 5)
    wanted = pipe(pairs, task="sts")
    for keys in (("text_a", "text_b"), ("text", "text_pair"), ("sentence1", "sentence2")):
        table = Dataset.from_list([dict(zip(keys, row, strict=True)) | {"label": 1.0} for row in pairs])
        assert list(pipe(table, task="sts")) == wanted
        assert pipe(list(table), task="sts") == wanted
        assert pipe(table[2], task="sts")["value"] == pytest.approx(wanted[2]["value"], abs=1e-5)
    assert pipe([list(row) for row in pairs], task="sts") == wanted
    texts = [row[0] for row in rows_of("sst", 5)]
    answers = pipe(texts, task="sst")
    table = Dataset.from_dict({"sentence": texts})
    assert list(pipe(KeyDataset(table, "sentence"), task="sst")) == list(pipe(table, task="sst")) == answers
    assert list(pipe((text for text in texts), task="sst")) == answers
    assert pipe([{"text_a": text, "text_b": None} for text in texts], task="sst") == answers
    assert pipe([], task="sst") == []


def test_a_stream_is_read_no_further_than_it_is_answered(pipe, monkeypatch):
    monkeypatch.setattr(inference, "CHUNK", 128)
    taken = 0

    def endless():
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield f"ab cd {number}"

    answers = pipe(endless(), task="sst")
    assert taken == 0
    assert next(answers)["label"]
    assert taken == 64
    assert len(list(itertools.islice(answers, 199))) == 199
    assert taken == 64 + 128 + 128


def test_top_k_ranks_labels(pipe):
    whole = pipe("ab cd film", task="sst")
    ranked = pipe("ab cd film", task="sst", top_k=None)
    assert ranked == pipe(["ab cd film"], task="sst", top_k=9)[0]
    assert [one["score"] for one in ranked] == sorted(whole["probabilities"].values(), reverse=True)
    assert pipe("ab cd film", task="sst", top_k=2) == ranked[:2]
    assert ranked[0] == {"label": whole["label"], "score": whole["score"]}
    assert len(pipe(("ab", "cd"), task="quora", top_k=None)) == 2


@pytest.mark.parametrize("input_format", ["separate", "qa"])
def test_embeddings_are_what_the_head_answers_from(input_format, tmp_path, save_checkpoint):
    from transformers import pipeline

    folder = save_checkpoint(tmp_path, input_format=input_format)
    pipe, predictor = pipeline("qabert", model=folder, device="cpu"), Predictor.from_pretrained(folder, "cpu")
    rows = rows_of("sts", 9)
    found = np.stack(pipe(rows, task="sts", embeddings=True))
    assert found.shape == (9, 32 if input_format == "separate" else 16)
    np.testing.assert_array_equal(found, predictor.embed("sts", rows))
    with torch.inference_mode():
        logits = predictor.model(embedding=torch.from_numpy(found), task="sts").logits
    np.testing.assert_allclose(logits, np.concatenate(list(predictor.logits("sts", rows))), atol=1e-6)
    assert predictor.embed("sst", []).shape == (0, 16)


def test_a_model_in_memory_and_one_that_the_pipeline_saved(predictor, pipe, tmp_path):
    from transformers import pipeline

    own = pipeline("qabert", model=predictor.model, tokenizer=predictor.tokenizer, device="cpu", top_k=1)
    wanted = pipe("ab cd", task="sst", top_k=1)
    assert own("ab cd", task="sst") == wanted
    with pytest.raises(InputError, match="tokenizer"):
        pipeline("qabert", model=predictor.model)
    own.save_pretrained(tmp_path / "saved")
    assert "custom_pipelines" not in json.loads((tmp_path / "saved/config.json").read_text())
    assert not (tmp_path / "saved" / "pipeline.py").exists()
    assert pipeline("qabert", model=tmp_path / "saved", device="cpu")("ab cd", task="sst", top_k=1) == wanted


@pytest.mark.parametrize(
    ("rows", "parameters", "message"),
    [
        (["ab", "cd", ("ab", "cd")], {"task": "sst"}, "row 3: task 'sst' takes one, got two sentences"),
        ((text for text in ["ab"] * 70 + [" "]), {"task": "sst"}, "row 71: a sentence is empty"),
        (["ab"], {"task": "sts"}, "row 1: task 'sts' takes two, got one sentence"),
        ([("a", "b"), {"sentence": "ab"}], {"task": "sts"}, "row 2: expected a column 'text_a', 'text' or 'sentence1'"),
        ([7], {"task": "sst"}, "row 1: expected a sentence, a pair or a mapping"),
        ([("a", "b", "c")], {"task": "sts"}, "row 1: expected one sentence or two; got 3"),
        (["\ud800"], {"task": "sst"}, "row 1: a sentence is not Unicode"),
        (7, {"task": "sst"}, "expected a row, a list of rows"),
        ("ab", {}, "several tasks; name one with task=…: sst, sts, quora"),
        ("ab", {"task": "stt"}, "unknown task 'stt' .did you mean"),
        ("ab", {"task": "sst", "topk": 1}, "unknown parameter 'topk' .did you mean 'top_k'"),
        ("ab", {"task": "sst", "top_k": 0}, "top_k is 0"),
        (("ab", "cd"), {"task": "sts", "top_k": 1}, "top_k is for labels"),
    ],
)
def test_what_can_not_be_answered_is_named(pipe, rows, parameters, message):
    with pytest.raises(InputError, match=message):
        found = pipe(rows, **parameters)
        list(found)


def test_a_folder_is_checked_before_it_is_loaded(trained, tmp_path, pipe):
    import shutil

    from transformers import pipeline

    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights can run code"):
        pipeline("qabert", model=str(broken), device="cpu")
    with pytest.raises(InputError, match="unknown dtype 'float16'"):
        pipeline("qabert", model=trained, dtype=torch.float16, device="cpu")
    half = pipeline("qabert", model=trained, dtype="bfloat16", device="cpu")
    assert next(half.model.encoder.parameters()).dtype == torch.bfloat16
    assert half("ab cd", task="sst")["score"] == pytest.approx(pipe("ab cd", task="sst")["score"], abs=0.1)
