"""A finished run, a hub on this machine, and the commands that meet it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this one

from server import TOKEN, Hub, client_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def training_words(encoder_path, course_folder):
    """Flags of a training of a few steps."""
    return (
        f"--data {course_folder} --encoder {encoder_path} --format qa --max_length 128 --head_blocks 1 --use_cpu true "
        "--disable_tqdm true --per_device_train_batch_size 24 --num_train_epochs 2 --learning_rate 1e-3"
    ).split()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, training_words) -> Path:
    """A whole run's folder, read-only for tests."""
    from qabert.training.recipes import parse
    from qabert.training.run import train

    output = tmp_path_factory.mktemp("finished") / "demo"
    train(parse([*training_words, "--output_dir", str(output), "--seed", "7"]))
    return output


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "demo"))


@pytest.fixture
def hub(tmp_path):
    """An empty hub."""
    with Hub(tmp_path / "hub") as server:
        yield server
        server.shutdown()


@pytest.fixture
def python(tmp_path):
    """`python(hub, words…)`: a Python process whose hub is that one (a URL or a `Hub`)."""

    def run(hub, *words, token=TOKEN, cwd=tmp_path, **more):
        url = getattr(hub, "url", hub)
        environment = client_environment(url, tmp_path / "home", token) | more
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)

    return run
