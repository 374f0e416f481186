"""Shipped launch configurations are what they say; a launcher that asks for something else is an error at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "accelerate_config.yaml", *sorted((ROOT / "scripts" / "accelerate").glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_accelerate_reads_every_key(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = load_config_from_file(str(path))  # refuses keys that it doesn't know
    assert str(config.distributed_type).removeprefix("DistributedType.") == values["distributed_type"]
    known = {action.dest for action in launch_command_parser()._actions}
    unknown = [key for key in values.get("fsdp_config", {}) if key not in known]
    assert not unknown
    assert values["num_processes"] >= values["num_machines"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "-1"}, "started 2 processes but the Trainer sees 1"),
        pytest.param({"ACCELERATE_USE_FSDP": "true"}, "FSDP, which needs GPUs", marks=pytest.mark.slow),
    ],
)
def test_a_launcher_that_asks_for_something_else(environment, said, encoder_path, course_folder, tmp_path):
    words = f"--data {course_folder} --encoder {encoder_path} --max_length 64 --output_dir {tmp_path / 'run'}".split()
    done = subprocess.run(
        [sys.executable, "scripts/train.py", *words, *(["--use_cpu", "true"] if "FSDP" in said else [])],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert said in done.stderr
    assert not (tmp_path / "run").exists()
