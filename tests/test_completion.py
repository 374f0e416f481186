"""Completion by a real bash, and what `--help` shows."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import subprocess
from collections import Counter

import pytest

from qabert.cli import COMMANDS, run
from qabert.training import arguments, recipes
from qabert.training.key_groups import GROUPS, OTHER, group_of


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run("completion", ["bash"])
    path = tmp_path_factory.mktemp("completion") / "qabert.bash"
    path.write_text(printed.getvalue())
    return path


@pytest.fixture
def complete(script, tmp_path):
    """What bash offers for the last of the words, in a folder with a recipe, a table and a model."""
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.csv").touch()
    (tmp_path / "models").mkdir()
    code = f'source "{script}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_qabert; '
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'

    def offered(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", code, "bash", "qabert", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return offered


def test_bash_knows_whom_to_ask(script):
    done = subprocess.run(["bash", "-c", f'source "{script}"; complete -p qabert'], capture_output=True, text=True)
    assert "-F _shtab_qabert qabert" in done.stdout, done.stderr


def test_commands(complete):
    assert set(complete("")) >= set(COMMANDS)
    assert "explain" in complete("expl")


def test_flags_ours_and_the_trainers(complete):
    assert complete("train", "--head_b") == ["--head_blocks"]
    assert set(complete("train", "--learning")) == {"--learning_rate"}
    assert {"--fp16", "--fp16_full_eval"} <= set(complete("train", "--fp16"))
    assert complete("train", "--hub_token") == []  # no recipe may have it
    assert complete("predict", "model", "--dty") == ["--dtype"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["train", "--format", "j"], ["joint"]),
        (["train", "--bf16", "t"], ["true"]),
        (["train", "--weighted_sampling", "f"], ["false"]),
        (["train", "--eval_strategy", ""], ["no", "steps", "epoch"]),
        (["predict", "models", "--dtype", "b"], ["bfloat16"]),
        (["evaluate", "models", "--split", ""], ["train", "dev", "test"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_values(complete, words, wanted):
    assert complete(*words) == wanted


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["train", "mi"], ["mine.yaml"]),
        (["reproduce", "mi"], ["mine.yaml"]),
        (["predict", "models", "--file", "mi"], ["mine.csv", "mine.yaml"]),
        (["predict", "m"], ["models"]),
        (["demo", "m"], ["models"]),
        (["train", "--output_dir", "m"], ["models"]),
    ],
)
def test_files(complete, words, wanted):
    assert sorted(complete(*words)) == wanted


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script(shell, capsys):
    run("completion", [shell])
    printed = capsys.readouterr().out
    assert "qabert" in printed and all(name in printed for name in COMMANDS)
    assert "learning_rate" in printed


# --- --help ----------------------------------------------------------------------------------------------------------


def test_each_of_our_keys_is_in_one_group():
    names = [item.name for item in arguments.own_fields()]
    assert [name for name in names if group_of(name) == OTHER] == [], "add them to GROUPS in training/key_groups.py"
    own = Counter(name for patterns in GROUPS.values() for name in patterns)
    assert set(own.values()) == {1}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_each_flag_is_for(name):
    parser = importlib.import_module(COMMANDS[name][0]).parser()
    assert isinstance(parser, argparse.ArgumentParser) and parser.description
    assert [action.dest for action in parser._actions if not action.help] == []
    assert parser.format_help()


def test_help_has_ours_in_groups_and_names_the_way_to_the_rest(capsys):
    with pytest.raises(SystemExit) as stop:
        run("train", ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    places = [text.index(f"\n{title}:\n") for title in ("data and tasks", "sampling", "run and resume", "help")]
    assert places == sorted(places)
    assert "(separate, joint, qa) [qa]" in text
    assert "--help-trainer" in text and OTHER not in text


def test_the_trainers_keys_with_defaults_and_ours_marked(capsys):
    with pytest.raises(SystemExit) as stop:
        run("train", ["recipe.yaml", "--help-trainer"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0
    assert "Learning Rate & Scheduler:" in lines
    assert "  --warmup_steps [0.1] *" in lines  # ours
    assert "  --max_grad_norm [1.0]" in lines  # the Trainer's
    shown = {line.split()[0][2:] for line in lines if line.startswith("  --")}
    assert not shown & arguments.keys_left_out()
    assert set(arguments.TRAINER_DEFAULTS) <= shown
    taken = {line.split()[0][2:]: line.split("[")[1].split("]")[0] for line in lines if line.startswith("  --")}
    recipes.from_keys({key: taken[key] for key in ("seed", "optim", "logging_steps", "lr_scheduler_type")})
