"""Two real processes train the encoder that one process trains with twice the batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from qabert.training.recipes import parse
from qabert.training.run import train
from qabert.training.triplets import STAGE

ROOT = Path(__file__).parents[2]


def curve(metrics):
    return [entry for entry in metrics["triplet"]["history"] if "loss" in entry]


@pytest.mark.slow
def test_losses_gradients_and_weights_are_those_of_one_process_and_one_of_two_writes(
    encoder_path, course_folder, tmp_path, torchrun
):
    encoder = tmp_path / "encoder"  # a new encoder maps all to nearly one point, where no hinge of equation 1 is open
    model = AutoModel.from_pretrained(encoder_path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(20 if weight.dim() > 1 else 8 if name == "encoder.layer.1.output.LayerNorm.weight" else 1)
    model.save_pretrained(encoder)
    AutoTokenizer.from_pretrained(encoder_path).save_pretrained(encoder)
    words = (
        f"--data {course_folder} --encoder {encoder} --tasks sst,quora --format separate --max_length 64 "
        "--head_blocks 1 --dropout 0 --use_cpu true --disable_tqdm true --logging_steps 1 --max_steps 1 "
        "--save_strategy no --eval_strategy no --load_best_model_at_end false "
        "--optim sgd --max_grad_norm 0 --weight_decay 0 --triplet_loss equation1 --triplet_learning_rate 0.05"
    ).split()
    one = train(parse([*words, "--output_dir", str(tmp_path / "one")]))
    flags = ["--output_dir", tmp_path / "two", "--ddp_backend", "gloo", "--triplet_batch_size", "8"]
    done = torchrun("scripts/train.py", *words, *flags)
    assert done.returncode == 0, done.stderr[-4000:]
    two = json.loads((tmp_path / "two" / "metrics.json").read_text(encoding="utf-8"))
    assert len(curve(one)) == len(curve(two)) == one["triplet"]["steps"]
    assert any(entry["loss"] > 0 for entry in curve(one))
    for a, b in zip(curve(one), curve(two), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["hinge_zero"] == pytest.approx(b["hinge_zero"], abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3, abs=1e-5)
    folders = (encoder, tmp_path / "one" / STAGE, tmp_path / "two" / STAGE)
    start, first, second = (load_file(folder / "model.safetensors") for folder in folders)
    assert any(not torch.equal(value, start[name]) for name, value in first.items())
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-4), name
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    assert done.stdout.count("measure (dev frames)") == 1
