"""An exported graph answers what its model answers, for calls of any size, and says what it can't do."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from qabert import export as exporting
from qabert.cli import main
from qabert.errors import InputError, RunError
from qabert.export import export
from qabert.inference import Predictor
from qabert.onnx import OnnxPredictor
from qabert.tasks import PAPER_TASKS

WORDS = ["ab", "cd", "film", "gh", "?", "ij", "kl"]


def rows_of(task: str, count: int) -> list[tuple[str, str | None]]:
    draw = np.random.default_rng(count)
    texts = [" ".join(draw.choice(WORDS, draw.integers(1, 40))) for _ in range(2 * count)]
    return [(texts[2 * n], texts[2 * n + 1] if PAPER_TASKS[task].pair else None) for n in range(count)]


def same_answers(one: Predictor, other: Predictor) -> None:
    for task in one.tasks:
        for count in (1, 2, 33):
            rows = rows_of(task, count)
            found = [np.concatenate(list(each.answers(task, rows, batch_size=8))) for each in (one, other)]
            np.testing.assert_allclose(*found, atol=1e-5, rtol=1e-4)
            embedded = [each.embed(task, rows) for each in (one, other)]
            assert embedded[0].shape == embedded[1].shape
            np.testing.assert_allclose(*embedded, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module", autouse=True)
def _no_traces():
    """pytest would keep every line of torch's tracing, of which there are thousands."""
    logger = logging.getLogger("torch.__trace")
    before, logger.propagate = logger.propagate, False
    yield
    logger.propagate = before


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A folder with the ONNX model of the checkpoint `trained`, read-only for tests."""
    output = tmp_path_factory.mktemp("onnx") / "model"
    export(trained, output)
    return output


def test_an_onnx_folder_answers_as_the_model(exported, trained):
    assert sorted(path.name for path in exported.iterdir()) == [
        "checksums.json", "config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    predictor = Predictor.from_pretrained(str(exported))
    assert type(predictor) is OnnxPredictor
    assert not any(isinstance(value, torch.nn.Module) for value in vars(predictor).values())
    same_answers(Predictor.from_pretrained(trained, "cpu"), predictor)


@pytest.mark.parametrize(
    ("kind", "pooling", "form"),
    [("bert", "first", "onnx"), ("mpnet", "mean", "torch"), ("modernbert", "first", "torch")],
)
def test_pairs_of_separate_sentences_and_other_encoders(
    kind, pooling, form, make_config, save_checkpoint, plain_tokenizer, tmp_path
):
    from transformers import AutoModel

    torch.manual_seed(0)
    AutoModel.from_config(make_config(kind)).save_pretrained(tmp_path / "encoder")
    priors = {"sst": [0.1, 0.2, 0.3, 0.2, 0.2], "quora": [0.7, 0.3]}
    folder = save_checkpoint(
        tmp_path / "model", encoder=str(tmp_path / "encoder"), input_format="separate", pooling=pooling, priors=priors
    )
    if kind != "bert":  # their tokenizers make no token types
        for path in (tmp_path / "model").glob("tokenizer*"):
            path.unlink()
        plain_tokenizer.save_pretrained(folder)
    assert export(folder, tmp_path / "out", form) < 1e-4  # it has compared the graph with the model
    if form == "onnx":
        same_answers(Predictor.from_pretrained(folder, "cpu"), Predictor.from_pretrained(str(tmp_path / "out")))


def test_torchs_own_format_loads_without_the_package(trained, tmp_path):
    export(trained, tmp_path / "out", "torch", ["sts", "sst"])
    module = torch.export.load(tmp_path / "out/model.pt2").module()
    predictor = Predictor.from_pretrained(trained, "cpu")
    for count in (1, 5):
        texts = [text for text, _ in rows_of("sst", count)]
        inputs = predictor.tokenizer(
            ["Is this review positive or negative?"] * count, texts, padding=True, return_tensors="pt"
        )
        embedding, *logits = module(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"])
        assert [one.shape[1] for one in (embedding, *logits)] == [16, 5, 1]  # in the order of the model's tasks
        rows = [(text, None) for text in texts]
        np.testing.assert_allclose(logits[0], np.concatenate(list(predictor.logits("sst", rows))), atol=1e-5, rtol=1e-4)


def test_the_commands(trained, exported, tmp_path, capsys):
    main(["export", trained, str(tmp_path / "out"), "--tasks", "quora", "--format", "torch"])
    assert "computes what the model does" in capsys.readouterr().out
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert [task["name"] for task in config["tasks"]] == ["quora"]
    told = []
    for model in (str(exported), trained):
        main(["predict", model, "--task", "quora", "ab cd", "ef"])
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]


def test_a_graph_that_computes_something_else_is_not_written(trained, tmp_path, monkeypatch):
    right = exporting.sentence_embeddings
    monkeypatch.setattr(exporting, "sentence_embeddings", lambda *words: right(*words) * 1.001)
    with pytest.raises(RunError, match="the graph's sentence_embedding for 1 rows of 3 tokens isn't the model's"):
        export(trained, tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_for_one_size_only_is_refused(trained, tmp_path, monkeypatch):
    def guess(self, input_ids, attention_mask, token_type_ids=None):
        return (input_ids.float()[:, :9].reshape(4, 9),)

    monkeypatch.setattr(exporting.Graph, "forward", guess)
    with pytest.raises(RunError, match="torch can't make a graph of a bert encoder for any number of rows and tokens"):
        export(trained, tmp_path / "out")


def test_what_can_not_be_exported_is_named(trained, exported, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="unknown task 'stt'"):
        export(trained, tmp_path / "out", tasks=["stt"])
    with pytest.raises(InputError, match="holds files already"):
        export(trained, exported)
    with pytest.raises(InputError, match="an exported one; export the model"):
        export(str(exported), tmp_path / "out")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs onnx, which isn't installed: pip install 'qabert\\[onnx\\]'"):
        export(trained, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("bytes", "SHA-256 differs"),
        ("unlisted", "model.onnx can't be loaded"),
        ("tasks", "it has no output logits_more"),
        ("device", "float32 on the CPU"),
        ("dtype", "float32 on the CPU"),
        ("explain", "exported model, which only answers"),
    ],
)
def test_a_damaged_or_overasked_folder_is_named(damage, message, exported, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(exported, folder)
    words = {"device": {"device": "cuda"}, "dtype": {"dtype": "bfloat16"}}.get(damage, {})
    if damage in ("bytes", "unlisted"):
        with (folder / "model.onnx").open("r+b") as file:
            file.write(b"\xff" * 64)
    if damage in ("unlisted", "tasks"):
        (folder / "checksums.json").unlink()
    if damage == "tasks":
        config = json.loads((folder / "config.json").read_text())
        config["tasks"].append(config["tasks"][0] | {"name": "more"})
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        predictor = Predictor.from_pretrained(str(folder), **words)
        if damage == "explain":
            _ = predictor.model.encoder
