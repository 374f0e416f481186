"""Every example in a docstring runs, in a folder that holds a model at `runs/demo`."""

from __future__ import annotations

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

from qabert import Predictor
from qabert.tasks import SST

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "qabert").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, tmp_path, monkeypatch, trained, encoder_path, tokenizer):
    shutil.copytree(trained, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    # What examples speak of without making it.
    given = {"Path": Path, "path": encoder_path, "tokenizer": tokenizer, "task": SST}
    given["predictor"] = Predictor.from_pretrained("runs/demo", "cpu")
    result = doctest.testmod(importlib.import_module(name), extraglobs=given)
    assert result.attempted and not result.failed


def test_no_example_is_left_out():
    skipped = [path for path in (ROOT / "qabert").rglob("*.py") if "+SKIP" in path.read_text(encoding="utf-8")]
    assert not skipped
