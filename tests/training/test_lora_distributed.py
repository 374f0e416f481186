"""Two real processes train the adapters that one process trains with twice the batch."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from qabert.training.recipes import parse
from qabert.training.run import train

WORDS = """
    --format joint --max_length 64 --head_blocks 1 --use_cpu true --disable_tqdm true --num_train_epochs 1 --lora_rank 2
    --learning_rate 5 --head_learning_rate 5e-2 --optim sgd --max_grad_norm 0 --weight_decay 0
    --save_strategy epoch --eval_strategy epoch
    --head_dropout 0 --dropout 0 --examples_per_epoch sst=32,sts=32,quora=32 --load_best_model_at_end false
"""


@pytest.mark.slow
def test_two_processes_end_with_the_adapter_and_model_of_one(encoder_path, course_folder, tmp_path, torchrun):
    words = [*WORDS.split(), "--data", str(course_folder), "--encoder", encoder_path]
    train(parse([*words, "--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "8"]))
    more = ["--ddp_backend", "gloo", "--per_device_train_batch_size", "4", "--output_dir", tmp_path / "two"]
    done = torchrun("scripts/train.py", *words, *more)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/heads/model.safetensors"):
        first, second = (load_file(tmp_path / run / name) for run in ("one", "two"))
        assert first.keys() == second.keys()
        for key, value in first.items():
            np.testing.assert_allclose(value, second[key], atol=1e-5, err_msg=f"{name} {key}")
    learnt = load_file(tmp_path / "one/adapter/adapter_model.safetensors")
    moved = [np.abs(value).max() for key, value in learnt.items() if "lora_B" in key]
    assert np.median(moved) > 1e-3, sorted(moved)
