"""The model card: its text, its metadata, and that its examples run as they stand.

After a change that was meant: `QABERT_WRITE_GOLDEN=1 pytest tests/hub/test_card.py -k golden`, then read what changed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from qabert.cli import predict_main
from qabert.errors import InputError
from qabert.hub.card import card_text, write_card
from qabert.training.recipes import from_keys

GOLDEN = Path(__file__).with_name("golden")
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "qabert":
            raise ModuleNotFoundError("qabert is hidden", name="qabert")
sys.meta_path.insert(0, Hide())
"""


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def test_the_card_of_a_fixed_run_is_the_golden_one():
    card = card_text(GOLDEN, "owner/golden")
    if os.environ.get("QABERT_WRITE_GOLDEN"):
        (GOLDEN / "README.md").write_text(card, encoding="utf-8")
    assert card == (GOLDEN / "README.md").read_text(encoding="utf-8")


def test_the_hub_reads_the_cards_head():
    data = ModelCard((GOLDEN / "README.md").read_text(encoding="utf-8")).data
    assert (data.language, data.library_name, data.pipeline_tag) == ("en", "transformers", "text-classification")
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2" and data.license is None
    found = {(one.dataset_type, one.metric_type): one.metric_value for one in data.eval_results}
    scores = json.loads((GOLDEN / "metrics.json").read_text(encoding="utf-8"))["scores"]
    assert found["sts", "pearsonr"] == round(scores["sts"]["pearson"], 4) and len(found) == 4


def test_the_cards_recipe_is_one():
    (recipe,) = blocks((GOLDEN / "README.md").read_text(encoding="utf-8"), "yaml")
    args = from_keys(yaml.safe_load(recipe))
    assert (args.data, args.head_blocks, float(args.trainer["learning_rate"])) == ("dfp", 2, 2e-5)
    tasks = args.load_tasks()
    assert tasks["mood"].labels == ("a|b", "<i>no</i>") and tasks["mood"].question == "Is it `so` | not so?"


def test_a_runs_card_names_no_folder_of_this_machine_and_its_examples_run(finished, python, monkeypatch, capsys):
    card = (finished / "README.md").read_text(encoding="utf-8")
    assert "/tmp" not in card and str(finished.parent) not in card and card == card_text(finished)
    assert "`course0`" in card and "base_model" not in card  # the encoder was a folder
    metrics = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))
    assert f"| {metrics['scores']['sst']['accuracy']:.3f} |" in card
    assert metrics["data"]["sts"]["dev"]["sha256"][:16] in card
    own, remote = blocks(card, "python")
    (command,) = blocks(card, "bash")
    monkeypatch.chdir(finished.parent)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(own, {})
    answer = eval(printed.getvalue())
    program, name, *words = shlex.split(command)
    assert (program, name) == ("qabert", "predict")
    capsys.readouterr()
    predict_main(words)
    assert json.loads(capsys.readouterr().out)["label"] == answer["label"]
    done = python("http://127.0.0.1:9", "-c", HIDE + remote, cwd=finished.parent)
    assert done.returncode == 0, done.stderr
    numbers = [float(number) for number in re.findall(r"\d\.\d+(?:e-\d+)?", done.stdout)]
    assert numbers == pytest.approx(list(answer["probabilities"].values()), abs=1e-3)


def test_both_orders_and_teachers_are_told(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    for name, keys in (("config.json", {"both_orders": True}), ("metrics.json", {})):
        path = tmp_path / "run" / name
        values = json.loads(path.read_text(encoding="utf-8")) | keys
        if name == "metrics.json":
            values["arguments"]["teachers"] = {"sts": ["/home/someone/runs/large", "owner/other"]}
        path.write_text(json.dumps(values), encoding="utf-8")
    card = card_text(tmp_path / "run", "owner/golden")
    assert "the mean of both orders' logits by qabert" in card
    assert "Of sts it also learnt the answers of large, owner/other, mistakes included." in card
    assert "/home" not in card


def test_older_runs_and_other_formats(tmp_path):
    config, metrics = (
        json.loads((GOLDEN / name).read_text(encoding="utf-8")) for name in ("config.json", "metrics.json")
    )
    for name in ("auto_map", "priors"):
        config.pop(name)
    config["tasks"] = config["tasks"][::-1]
    for task in ("mood", "sts"):
        for split in ("train", "dev"):
            del metrics["data"][task][split]["sha256"]
    metrics["warnings"], metrics["untrained"] = [], None
    del metrics["machine"]["processes"]
    for key in ("cache", "hub_model_id", "prior_correction"):
        metrics["arguments"].pop(key, None)
    for input_format, given in (
        ("separate", 'tokenizer(["A man plays a guitar.", "Someone makes music."], padding=True'),
        ("joint", 'tokenizer("A man plays a guitar.", "Someone makes music."'),
        (
            "qa",
            'to the second sentence?", "First sentence: A man plays a guitar. Second sentence: Someone makes music."',
        ),
    ):
        for remote in (False, True):
            config |= {"input_format": input_format} | ({"auto_map": {"AutoModel": "x.Y"}} if remote else {})
            (tmp_path / "config.json").write_text(json.dumps(config))
            (tmp_path / "metrics.json").write_text(json.dumps(metrics))
            card = write_card(tmp_path).read_text(encoding="utf-8")
            assert (given in card) == remote and "not known" in card and "untrained" not in card
        config.pop("auto_map")


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_a_folder_that_no_run_wrote(name, tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    (tmp_path / "run" / name).write_text('{"tasks": [], "arguments": {}}')
    with pytest.raises(InputError, match="isn't what training writes"):
        write_card(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError, match=rf"{name} can't be read"):
        write_card(tmp_path / "run")
