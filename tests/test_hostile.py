"""Checkpoints and encoders that a stranger wrote: no code runs, no file elsewhere is read, no lie takes memory."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qabert import model_files
from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.modeling import QABertModel
from qabert.training.encoders import load_tokenizer

ROOT = Path(__file__).parents[1]
SEVERAL = ("model", "encoder")


@pytest.fixture
def folders(trained, encoder_path, tmp_path):
    """Copies of a checkpoint and of an encoder, by name."""
    sources = {"model": trained, "encoder": encoder_path}
    return {name: Path(shutil.copytree(source, tmp_path / name)) for name, source in sources.items()}


def load(name: str, folder: Path):
    return Predictor.from_pretrained(str(folder), "cpu") if name == "model" else load_tokenizer(str(folder), 64)


def change(path: Path, *keys: str | int, value) -> None:
    """Set a value in a JSON file; the keys lead to it."""
    values = inner = json.loads(path.read_text(encoding="utf-8"))
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(values), encoding="utf-8")


class Evil:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def write_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Evil(marker)}))


# --- code -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEVERAL)
def test_pickled_weights_are_not_loaded_and_the_message_says_how_to_convert_them(name, folders, tmp_path):
    folder = folders[name]
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin", tmp_path / "marker")
    with pytest.raises(InputError, match=r"found pytorch_model.bin; pickled weights can run code.*save_pretrained"):
        load(name, folder)
    if name == "encoder":
        with pytest.raises(OSError, match=r"no file named model.safetensors"):
            QABertModel.from_encoder(str(folder), tasks=[])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", SEVERAL)
def test_code_beside_the_weights_is_not_run(name, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    folder = folders[name]
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Evil: ...\n", encoding="utf-8")
    classes = {key: "evil.Evil" for key in ("AutoConfig", "AutoModel")}
    change(folder / "config.json", "auto_map", value=classes)
    change(folder / "tokenizer_config.json", "auto_map", value={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    load(name, folder)
    if name == "encoder":
        QABertModel.from_encoder(str(folder), tasks=[])
    change(folder / "tokenizer_config.json", "tokenizer_class", value="Evil")
    with contextlib.suppress(InputError):
        load(name, folder)  # the class isn't known, so transformers may take its own one or refuse
    change(folder / "config.json", "model_type", value="evil")
    with pytest.raises(InputError, match=r"'evil' model|evil model with code of its own \(config.json, 'auto_map'\)"):
        load(name, folder)
    assert not (tmp_path / "marker").exists()


def test_the_code_that_our_own_checkpoints_carry_is_not_run(folders, tmp_path):
    folder = folders["model"]
    codes = sorted(path for path in folder.glob("*.py"))
    assert "modeling_qabert.py" in [path.name for path in codes]
    assert json.loads((folder / "config.json").read_text())["auto_map"]["AutoModel"] == "modeling_qabert.QABertModel"
    for path in codes:
        path.write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n", encoding="utf-8")
    load("model", folder)
    assert not (tmp_path / "marker").exists()


def test_an_encoder_inside_a_checkpoint_cannot_bring_code(folders, tmp_path):
    folder = folders["model"]
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Evil: ...\n", encoding="utf-8")
    change(folder / "config.json", "encoder", "auto_map", value={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    load("model", folder)
    change(folder / "config.json", "encoder", "model_type", value="evil")
    with pytest.raises(InputError, match="'encoder': model_type 'evil' is not one that transformers knows"):
        load("model", folder)
    assert not (tmp_path / "marker").exists()


# --- paths ------------------------------------------------------------------------------------------------------------


def shard(folder: Path, listed: str) -> None:
    """Replace the weights by a list of files that names one."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with safe_open(folder / "model-00001-of-00001.safetensors", framework="np") as file:
        names = list(file.keys())
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, listed)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize("name", SEVERAL)
def test_a_list_of_weights_names_safetensors_beside_it_only(name, folders, tmp_path):
    folder = folders[name]
    shard(folder, "model-00001-of-00001.safetensors")
    load(name, folder)
    outside = shutil.copy(folder / "model-00001-of-00001.safetensors", tmp_path / "outside.safetensors")
    write_pickle(folder / "weights.bin", tmp_path / "marker")
    (folder / "link.safetensors").symlink_to(outside)
    index = folder / "model.safetensors.index.json"
    key = next(iter(json.loads(index.read_text())["weight_map"]))
    for listed in ("../outside.safetensors", str(outside), "weights.bin", "link.safetensors", "gone.safetensors"):
        change(index, "weight_map", key, value=listed)
        with pytest.raises(InputError, match=r"link to|names '|its weights can't be loaded: gone"):
            load(name, folder)
    for broken in ([], {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"x": [1]}}):
        index.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(InputError, match=r"index.json"):
            load(name, folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("name", SEVERAL)
def test_a_link_out_of_the_folder_is_an_error_and_one_inside_is_not(name, file, folders, tmp_path):
    folder = folders[name]
    (folder / file).rename(folder / "real")
    (folder / file).symlink_to("real")
    load(name, folder)
    (folder / file).unlink()
    (folder / "real").rename(tmp_path / "real")
    (folder / file).symlink_to("../real")
    with pytest.raises(InputError, match=rf"{file} is a link to {tmp_path / 'real'}"):
        load(name, folder)


HUB = """
import sys
from qabert.inference import Predictor
from qabert.training.encoders import load_tokenizer
for name in sys.argv[1:]:
    print(next(Predictor.from_pretrained(name, "cpu").predict("sts", [("ab", "cd")])))
print(len(load_tokenizer("some/encoder", 64)))
"""


def test_the_hubs_cache_of_links_works_by_name_and_by_folder(folders, tmp_path):
    for name, folder in folders.items():
        repository = tmp_path / "hub" / f"models--some--{name}"
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        (repository / "blobs").mkdir()
        for number, file in enumerate(folder.iterdir()):
            shutil.copy(file, repository / "blobs" / str(number))
            (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    by_folder = tmp_path / "hub" / "models--some--model" / "snapshots" / ("0" * 40)
    done = subprocess.run(
        [sys.executable, "-c", HUB, "some/model", str(by_folder)],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, tokens = done.stdout.splitlines()
    assert first == second == str(next(load("model", folders["model"]).predict("sts", [("ab", "cd")])))
    assert int(tokens) > 700


@pytest.mark.parametrize("name", SEVERAL)
def test_names_of_files_elsewhere_are_not_followed(name, folders, tmp_path):
    folder = folders[name]
    secret = tmp_path / "secret.txt"
    secret.write_text("geheim\n", encoding="utf-8")
    for key in ("vocab_file", "tokenizer_file", "merges_file", "special_tokens_map_file", "name_or_path"):
        change(folder / "tokenizer_config.json", key, value=str(secret))
    change(folder / "config.json", "_name_or_path", value=str(tmp_path))
    for kind in ("PreTrainedTokenizerFast", "BertTokenizer", "BertTokenizerFast"):
        change(folder / "tokenizer_config.json", "tokenizer_class", value=kind)
        loaded = load(name, folder)
        vocabulary = getattr(loaded, "tokenizer", loaded).get_vocab()
        assert "geheim" not in vocabulary and "ab" in vocabulary
    for key, value in (
        ("init_inputs", [str(secret)]),
        ("vocab", str(secret)),
        ("fast_tokenizer_files", ["../tokenizer.4.0.0.json"]),
        ("gguf_file", str(secret)),
    ):
        change(folder / "tokenizer_config.json", key, value=value)
        with pytest.raises(InputError, match=rf"tokenizer_config.json, '{key}' names other files"):
            load(name, folder)
        change(folder / "tokenizer_config.json", key, value=None)
    for key, value in (
        ("transformers_weights", "../x.safetensors"),
        ("configuration_files", ["config.4.0.0.json"]),
        ("attn_implementation", "some/kernel"),
    ):
        change(folder / "config.json", key, value=value)
        with pytest.raises(InputError, match=rf"config.json, '{key}' names"):
            load(name, folder)
        change(folder / "config.json", key, value=None)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"adapter_config.json: an adapter names another model"):
        load(name, folder)


# --- sizes ------------------------------------------------------------------------------------------------------------

#: What an encoder's configuration may say, in a checkpoint or in a folder of its own.
ENCODER_SIZES = [
    ("num_hidden_layers", 10**9),
    ("num_hidden_layers", 1000),
    ("num_hidden_layers", True),
    ("hidden_size", 2**40),
    ("hidden_size", 2**30),
    ("hidden_size", -16),
    ("hidden_size", {"hidden_size": 16}),
    ("hidden_size", float("nan")),
    ("intermediate_size", 2**31 - 1),
    ("intermediate_size", float("inf")),
    ("vocab_size", 10**12),
    ("vocab_size", 2**31 - 1),
    ("vocab_size", "1 and 5000 zeros"),
    ("vocab_size", False),
    ("max_position_embeddings", 10**15),
    ("max_position_embeddings", 2**31 - 1),
    ("max_position_embeddings", -1),
    ("type_vocab_size", 2**31 - 1),
    ("num_attention_heads", 2**31 - 1),
    ("num_labels", 10**9),
    ("initializer_range", [[1.0]]),
]
OWN_SIZES = [
    *(("head_blocks", value) for value in (10**9, 10**12, -1, True, 1.5, float("nan"), {"head": 1})),
    *(("head_width", value) for value in (2**31 - 1, 2**62, -3, "wide")),
    *(("max_length", value) for value in (10**15, float("inf"), True, [1])),
    ("head_dropout", 7.5),
    ("priors", {"sst": [float("nan")] * 5}),
    ("num_labels", 10**9),
]


def refused_cheaply(name: str, folder: Path, match: str | None = None) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(InputError, match=match) as caught:
        load(name, folder)
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def set_size(folders):
    def set_value(name, *keys, value):
        path = folders[name] / "config.json"
        change(path, *keys, value=value)  # which can't write so many digits
        path.write_text(path.read_text().replace('"1 and 5000 zeros"', "1" + "0" * 5000))

    return set_value


@pytest.mark.parametrize(("key", "value"), ENCODER_SIZES)
@pytest.mark.parametrize("name", SEVERAL)
def test_an_encoder_larger_than_its_weights_is_refused_before_it_is_built(name, key, value, folders, set_size):
    set_size(name, *(["encoder"] if name == "model" else []), key, value=value)
    refused_cheaply(name, folders[name])


@pytest.mark.parametrize(("key", "value"), OWN_SIZES)
def test_heads_larger_than_their_weights_are_refused_before_they_are_built(key, value, folders, set_size):
    set_size("model", key, value=value)
    refused_cheaply("model", folders["model"])


def test_more_tasks_and_labels_than_weights(folders):
    config = folders["model"] / "config.json"
    first = json.loads(config.read_text())["tasks"][0]
    tasks = json.loads(config.read_text())["tasks"]
    change(config, "tasks", value=[*tasks, *({**first, "name": f"t{n}"} for n in range(5000))])
    refused_cheaply("model", folders["model"], "many more weights than the")
    change(config, "tasks", value=[{**first, "labels": [f"label {n}" for n in range(100_000)]}, *tasks[1:]])
    refused_cheaply("model", folders["model"])


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"])
def test_json_that_is_too_large_or_too_deep(name, file, folders, monkeypatch):
    path = folders[name] / file
    text = path.read_text() if path.exists() else "{}"
    for depth in (40, 900, 100_000):
        deep = '{"a": ' * depth + "1" + "}" * depth
        path.write_text(text.rstrip().removesuffix("}") + (", " if len(text) > 2 else "") + f'"deep": {deep}}}')
        if file in ("config.json", "tokenizer_config.json"):
            refused_cheaply(name, folders[name], "can't be read")
        elif depth > 1000 and file == "tokenizer.json":
            refused_cheaply(name, folders[name])
    path.write_text(text)
    with path.open("r+") as padded:  # a hole: no disk is used
        padded.truncate(model_files.MAX_BYTES + 1)
    refused_cheaply(name, folders[name], rf"{file} has 67,108,865 bytes; expected at most")


def header(values, length: int | None = None, body: int = 0) -> bytes:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(body)


FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "empty": b"",
    "short": b"\x01\x02",
    "length_beyond_the_file": header({}, length=2**63),
    "length_negative": b"\xff" * 8 + b"{}",
    "length_a_gigabyte": header({}, length=2**30),
    "no_json": header(b"{" * 100),
    "deep": header(b'{"a":' * 100_000),
    "list": header([]),
    "offsets_beyond_the_file": header({"a": FLOATS | {"shape": [2**40], "data_offsets": [0, 2**42]}}),
    "offsets_of_another_size": header({"a": FLOATS | {"shape": [3]}}, body=8),
    "offsets_negative": header({"a": FLOATS | {"data_offsets": [-8, 0]}}),
    "offsets_overlap": header({"a": FLOATS, "b": FLOATS}, body=8),
    "offsets_reversed": header({"a": FLOATS | {"data_offsets": [8, 0]}}, body=8),
    "shape_overflows": header({"a": FLOATS | {"shape": [2**62, 4]}}, body=8),
    "shape_negative": header({"a": FLOATS | {"shape": [-2]}}, body=8),
    "shape_true": header({"a": FLOATS | {"shape": [True, 2]}}, body=8),
    "type_unknown": header({"a": FLOATS | {"dtype": "F33"}}, body=8),
    "bytes_left_over": header({"a": FLOATS}, body=800),
}


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("what", HEADERS)
def test_headers_of_weights_that_lie(name, what, folders):
    (folders[name] / "model.safetensors").write_bytes(HEADERS[what])
    refused_cheaply(name, folders[name], "its weights can't be loaded: model.safetensors: ")


def test_an_encoders_file_may_hold_more_and_lack_its_unused_pooler(folders):
    path = folders["encoder"] / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if "pooler" not in name}
    weights = {f"bert.{name}": value for name, value in weights.items()} | {"cls.bias": torch.zeros(800)}
    save_file(weights, path, metadata={"format": "pt"})
    load("encoder", folders["encoder"])
    QABertModel.from_encoder(str(folders["encoder"]), tasks=[])


def test_tables_that_no_file_holds_are_bounded_too(folders):
    import transformers

    # Without absolute positions nothing in the file is as long as `max_position_embeddings`, but a table 0, 1, 2, … is.
    config = transformers.DebertaV2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=800,
        position_biased_input=False, relative_attention=True, max_relative_positions=8, pad_token_id=0,
    )  # fmt: skip
    transformers.AutoModel.from_config(config).save_pretrained(folders["encoder"])
    load("encoder", folders["encoder"])
    change(folders["encoder"] / "config.json", "max_position_embeddings", value=2**31 - 1)
    refused_cheaply("encoder", folders["encoder"], "tables of 2,147,483,647 numbers")


def test_lists_that_a_configuration_makes_of_its_numbers_are_bounded(folders, make_config):
    make_config("modernbert").save_pretrained(folders["encoder"])  # it lists every layer's kind of attention
    change(folders["encoder"] / "config.json", "num_hidden_layers", value=10**9)
    change(folders["encoder"] / "config.json", "layer_types", value=None)
    refused_cheaply(
        "encoder", folders["encoder"], "'num_hidden_layers' is 1000000000; expected a number of at most 1,024"
    )


def test_a_checkpoint_is_compared_with_its_checksums(folders):
    from qabert.checkpoints import write_checksums

    write_checksums(folders["model"])
    load("model", folders["model"])
    weights = folders["model"] / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # one bit, which no header shows
    refused_cheaply("model", folders["model"], "model.safetensors isn't what was written")
