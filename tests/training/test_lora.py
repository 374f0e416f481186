"""LoRA: adapters and heads learn, the rest stays; the run's folder holds a merged model and what was learnt alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qabert.cli import main
from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.modeling import QABertModel
from qabert.modeling.dropout import Dropout
from qabert.modeling.linear import FastLinear
from qabert.tasks import PAPER_TASKS
from qabert.training.lora import add_adapters, finish, merge, weight_counts
from qabert.training.recipes import parse
from qabert.training.run import train

WORDS = """
    --format joint --max_length 32 --head_blocks 1 --use_cpu true --disable_tqdm true --report_to none
    --num_train_epochs 1 --learning_rate 2e-2 --per_device_train_batch_size 8 --lora_rank 4
    --examples_per_epoch sst=16,sts=16,quora=16 --eval_examples sst=8,sts=8,quora=8
"""


@pytest.fixture(scope="module")
def words(encoder_path, course_folder):
    return [*WORDS.split(), "--data", str(course_folder), "--encoder", encoder_path]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    """A folder of a run, and what it measured."""
    output = tmp_path_factory.mktemp("lora") / "run"
    return output, train(parse([*words, "--output_dir", str(output)]))


def model_of(encoder: str, **config) -> QABertModel:
    declared = [task.to_dict() for task in PAPER_TASKS.values()]
    return QABertModel.from_encoder(encoder, tasks=declared, input_format="joint", head_blocks=1, **config)


def saved_encoder(make_config, folder, kind):
    from transformers import AutoModel

    torch.manual_seed(0)
    AutoModel.from_config(make_config(kind)).save_pretrained(folder)
    return str(folder)


def batch(rows: int = 6) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    mask = torch.ones(rows, 11, dtype=torch.long)
    mask[::2, 7:] = 0
    return {"input_ids": torch.randint(5, 700, (rows, 11)), "attention_mask": mask}


@pytest.mark.parametrize("kind", ["bert", "mpnet", "modernbert"])
@pytest.mark.parametrize("targets", [None, "first two"])
def test_fast_ways_compute_what_plain_layers_do(kind, targets, make_config, tmp_path):
    names = {"bert": "query,value", "mpnet": "q,v", "modernbert": "Wqkv"}
    model = model_of(saved_encoder(make_config, tmp_path, kind), dropout=0.0, head_dropout=0.0)
    inputs = batch()
    before = model.eval()(**inputs, task="sst").logits
    add_adapters(model, 3, dropout=0.0, targets=targets and names[kind])
    torch.testing.assert_close(model(**inputs, task="sst").logits, before)  # they begin as zero
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=1.0)
    layers = [layer for layer in model.encoder.modules() if type(layer) is torch.nn.Linear]
    assert not layers
    assert sum(type(layer) is FastLinear for layer in model.encoder.modules()) > 6

    def outcome(train: bool, plain: bool):
        model.train(train)
        model.zero_grad()
        if plain:
            for layer in model.encoder.modules():
                if type(layer) is FastLinear:
                    layer.__class__ = torch.nn.Linear
        logits = model(**inputs, task="sst").logits
        logits.square().sum().backward()
        gradients = {name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None}
        states = model.encoder(**inputs).last_hidden_state[:, 0]
        torch.testing.assert_close(model.embed(**inputs), states, atol=1e-5, rtol=1e-4)  # one token, or all of them
        with torch.inference_mode():
            packed = model.eval()(**inputs, task="sst").logits
        return logits.detach(), packed.clone(), gradients

    fast = outcome(True, plain=False)
    slow = outcome(True, plain=True)
    for one, other in zip(fast[:2], slow[:2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        assert (one - before).abs().max() > 1e-3
    assert fast[2].keys() == slow[2].keys()
    assert {name.split(".")[0] for name in fast[2]} == {"encoder", "heads"}
    assert all(".lora_" in name for name in fast[2] if name.startswith("encoder"))
    for name in fast[2]:
        torch.testing.assert_close(fast[2][name], slow[2][name], atol=1e-4, rtol=1e-3, msg=name)


def test_dropout_is_the_fast_one_and_merging_keeps_the_answers(encoder_path, tmp_path):
    model = model_of(encoder_path)
    names = list(model.state_dict())
    add_adapters(model, 3, alpha=9, dropout=0.4)
    drops = [layer for name, layer in model.encoder.named_modules() if name.endswith("lora_dropout.default")]
    assert len(drops) == 12
    assert all(type(layer) is Dropout and layer.p == 0.4 for layer in drops)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=1.0)
    model.eval()
    with torch.inference_mode():
        before = model(**batch(), task="sst").logits
    finish(model, tmp_path / "adapter", encoder_path, main=True)
    with torch.inference_mode():  # no copy that was laid out before may answer
        torch.testing.assert_close(model(**batch(), task="sst").logits, before, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (3, 9, None)


def test_a_run_learns_adapters_and_heads_and_writes_a_whole_model(run, encoder_path, course_folder, capsys):
    output, result = run
    counts = result["weights"]
    model = model_of(encoder_path)
    add_adapters(model, 4)
    assert counts == weight_counts(model)
    assert 0 < counts["share"] < 0.5
    old, new = load_file(f"{encoder_path}/model.safetensors"), load_file(output / "model.safetensors")
    assert not [name for name in new if "lora" in name or "base_layer" in name]
    moved = {name for name in old if f"encoder.{name}" in new and not torch.equal(old[name], new[f"encoder.{name}"])}
    linear = {name for name in old if name.endswith("weight") and old[name].dim() == 2 and "embeddings" not in name}
    assert moved == {name for name in linear if "pooler" not in name}
    predictor = Predictor.from_pretrained(str(output), "cpu")
    rows = [line.split(",") for line in (output / "predictions/sst-dev.csv").read_text().splitlines()[1:]]
    assert len(rows) == 20
    main(["evaluate", str(output), "--data", str(course_folder), "--device", "cpu"])
    capsys.readouterr()
    assert next(predictor.predict("sst", [("ab cd", None)]))["label"]
    assert result["scores"]["sst"]["accuracy"] == result["history"][-1]["final_sst/accuracy"]


def test_an_adapter_is_small_and_merges_into_the_same_model(run, encoder_path, tmp_path, capsys):
    output, _ = run
    sizes = [sum(file.stat().st_size for file in (output / name).rglob("*.safetensors")) for name in ("adapter", ".")]
    assert sizes[0] < sizes[1]
    main(["merge", str(output / "adapter"), str(tmp_path / "whole"), "--encoder", encoder_path])
    assert "the model is in" in capsys.readouterr().out
    one, other = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [("ab cd", "ef"), ("gh", "ij kl mn")]
    found = [
        np.concatenate(list(Predictor.from_pretrained(str(folder), "cpu").answers("sts", rows)))
        for folder in (output, tmp_path / "whole")
    ]
    np.testing.assert_array_equal(*found)


def test_peft_itself_reads_the_adapter(run, encoder_path):
    from peft import PeftModel
    from transformers import AutoModel

    output, _ = run
    base = AutoModel.from_pretrained(encoder_path, add_pooling_layer=False)
    theirs = PeftModel.from_pretrained(base, str(output / "adapter")).merge_and_unload().eval()
    ours = Predictor.from_pretrained(str(output), "cpu").model.encoder
    with torch.no_grad():
        one, other = (model(**batch()).last_hidden_state for model in (theirs, ours))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("none", "give --encoder FOLDER"),
        ("encoder", "was trained on another encoder"),
        ("dora", "'use_dora': runs of this package don't use it"),
        ("rank", "expected peft_type LORA"),
        ("names", "doesn't fit the encoder: it has other layers"),
        ("sizes", "has another size"),
        ("heads", "don't fit"),
        ("cut", "can't be read"),
        ("gone", "expected a folder with adapter_config.json"),
        ("sum", "SHA-256 differs"),
        ("full", "holds files already"),
    ],
)
def test_an_adapter_that_does_not_fit_is_named(damage, message, run, encoder_path, make_config, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(run[0] / "adapter", folder)
    encoder: str | None = encoder_path
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(iter(weights))
    if damage != "sum":
        (folder / "checksums.json").unlink()
    if damage == "none":
        encoder = None
    elif damage == "encoder":
        shutil.copytree(encoder_path, tmp_path / "other")
        encoder = str(tmp_path / "other")
        values = load_file(f"{encoder}/model.safetensors")
        values["encoder.layer.0.output.dense.weight"] += 1e-3
        save_file(values, f"{encoder}/model.safetensors", {"format": "pt"})
    elif damage in ("dora", "rank"):
        config = json.loads((folder / "adapter_config.json").read_text())
        config |= {"use_dora": True} if damage == "dora" else {"r": 0}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    elif damage in ("names", "sizes"):
        if damage == "names":
            weights[name.replace("layer.0", "layer.9")] = weights.pop(name)
        else:
            weights[name] = weights[name][:, :-1].contiguous()
        save_file(weights, folder / "adapter_model.safetensors")
    elif damage == "heads":
        heads = folder / "heads/model.safetensors"
        from safetensors import safe_open

        with safe_open(heads, "pt") as file:
            metadata = file.metadata()
        values = load_file(heads)
        values.popitem()
        save_file(values, heads, metadata)
    elif damage == "cut":
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "gone":
        (folder / "adapter_config.json").unlink()
    elif damage == "sum":
        with (folder / "adapter_model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
    elif damage == "full":
        (tmp_path / "out").mkdir()
        (tmp_path / "out/file").write_text("")
    with pytest.raises(InputError, match=message):
        merge(str(folder), tmp_path / "out", encoder)
    assert not (tmp_path / "out/config.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--freeze_encoder true", "'lora_rank' and 'freeze_encoder' exclude each other"),
        ("--triplet_loss ranking", "'lora_rank' and 'triplet_loss' exclude each other"),
        ("--lora_rank 0", "'lora_rank' has"),
        ("--lora_targets qurey", "no linear layer 'qurey'; known: dense, key, query, value"),
    ],
)
def test_what_can_not_be_trained_is_named(more, message, words, tmp_path):
    with pytest.raises(InputError, match=message):
        train(parse([*words, *more.split(), "--output_dir", str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists()


def test_lora_keys_without_a_rank_are_refused():
    with pytest.raises(InputError, match="'lora_alpha' is of 'lora_rank': set that too"):
        parse(["--lora_alpha", "8"])


def test_a_checkpoint_of_the_run_says_where_the_whole_model_is(run):
    (checkpoint,) = run[0].glob("checkpoint-*")
    with pytest.raises(InputError, match="checkpoint with adapters"):
        Predictor.from_pretrained(str(checkpoint), "cpu")


def test_half_precision_and_less_memory_train_too(words, tmp_path):
    more = "--bf16 true --gradient_checkpointing true --gradient_accumulation_steps 2 --per_device_train_batch_size 4"
    result = train(parse([*words, *more.split(), "--output_dir", str(tmp_path / "half")]))
    assert all(np.isfinite(entry["grad_norm"]) for entry in result["history"] if "grad_norm" in entry)
    learnt = load_file(tmp_path / "half/adapter/adapter_model.safetensors")
    assert all(values.abs().max() > 0 for name, values in learnt.items() if "lora_B" in name)
