"""The examples of scripts/examples: their files are what their generator makes, and they can be learnt from."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from qabert.data.sources import load_data
from qabert.task_files import load_tasks
from qabert.training.recipes import parse
from qabert.training.run import train

FOLDER = Path(__file__).parents[1] / "scripts" / "examples" / "own_tasks"
SPLITS = ("train", "dev")


@pytest.fixture(scope="module")
def maker():
    """The example's generator."""
    spec = importlib.util.spec_from_file_location("make_rows", FOLDER / "make_rows.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows():
    """The example's rows as a run reads them."""
    return load_data(load_tasks(str(FOLDER / "tasks.yaml")), None)


def test_files_are_what_the_generator_makes(maker, tmp_path):
    maker.write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in (".csv", ".tsv", ".jsonl")}
    assert made == kept
    assert len(made) == 6


def test_every_row_is_read_and_no_text_stands_in_both_splits(rows):
    for data in rows.values():
        assert not any(data.dropped.values())
        texts = {split: {(row["text_a"], row["text_b"]) for row in data.splits[split]} for split in SPLITS}
        assert [len(texts[split]) for split in SPLITS] == [420, 150]
        assert not texts["train"] & texts["dev"]


def test_labels_are_even(rows):
    for name, labels in (("topic", 5), ("entailment", 3)):
        for split in SPLITS:
            counts = Counter(rows[name].splits[split]["label"])
            assert len(counts) == labels
            assert max(counts.values()) - min(counts.values()) <= 1
    for split in SPLITS:
        assert set(rows["urgency"].splits[split]["label"]) == set(map(float, range(11)))


def test_words_of_dev_are_not_those_of_train(maker):
    """But for the words that hold a language together, and those that relations hang on."""
    for words in (maker.HEADLINES, maker.MESSAGES, maker.SCENES):
        values = {side: {value for key in words[side] for value in words[side][key]} for side in SPLITS}
        assert not values["train"] & values["dev"]
        content = {
            side: set(re.findall(r"[a-z]{6,}", " ".join(values[side]).lower())) - {"follows", "opposite", "general"}
            for side in SPLITS
        }
        assert len(content["train"] & content["dev"]) <= 0.12 * len(content["dev"]), content["train"] & content["dev"]


def test_the_example_runs_from_any_folder_without_a_data_folder(tmp_path, encoder_path, monkeypatch, capsys):
    shutil.copytree(FOLDER, tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    few = "--examples_per_epoch=topic=32,urgency=32,entailment=32"
    small = [few, "--use_cpu=true", "--disable_tqdm=true", "--num_train_epochs=1", "--max_length=128"]
    result = train(parse(["own/recipe.yaml", "--encoder", encoder_path, *small]))
    assert list(result["scores"]) == ["topic", "urgency", "entailment"]
    assert json.loads((tmp_path / "runs/own_tasks/metrics.json").read_text(encoding="utf-8"))["untrained"] is not None
    assert "entailment  accuracy" in capsys.readouterr().out
