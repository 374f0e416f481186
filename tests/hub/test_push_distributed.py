"""Two processes train; one of them pushes."""

from __future__ import annotations

import pytest
from server import client_environment

WORDS = [*("--push_to_hub", "true", "--hub_model_id", "owner/two"), *("--hub_strategy", "every_save")]


@pytest.mark.slow
def test_one_process_pushes(training_words, hub, tmp_path, torchrun, monkeypatch):
    for name, value in client_environment(hub.url, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = torchrun(
        "-m", "qabert", "train", *training_words, "--output_dir", tmp_path / "run", *WORDS, "--ddp_backend", "gloo"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    commits = hub.repos["owner/two"]["commits"]
    assert commits.count("Upload a model of qabert") == 1 and len(commits) <= 3
    assert hub.files("owner/two")["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
