"""`qabert.train`."""

from __future__ import annotations

import json

import pytest

import qabert


def test_a_recipe_and_keys_that_win_over_it(tmp_path, encoder_path, course_folder):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"encoder: {encoder_path}\ndata: {course_folder}\nhead_blocks: 3\nmax_length: 64\ntasks: sst\n")
    out = tmp_path / "run"
    result = qabert.train(recipe, head_blocks=1, output_dir=str(out), max_steps=2, use_cpu=True, disable_tqdm=True)
    assert result["arguments"]["head_blocks"] == 1 and result["arguments"]["max_length"] == 64
    assert result["steps"] == 2
    assert result["scores"] == json.loads((out / "metrics.json").read_text())["scores"]
    assert next(qabert.Predictor.from_pretrained(str(out), "cpu").predict("sst", [("ab cd", None)]))["label"]


def test_a_mapping_and_a_key_that_there_is_not():
    with pytest.raises(qabert.InputError, match="'learnig_rate' \\(did you mean 'learning_rate'"):
        qabert.train({"data": "demo", "learnig_rate": 1})
