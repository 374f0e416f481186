"""Recipes, flags and their errors: whatever is typed ends in `RunArguments` or in one plain message."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qabert.errors import InputError
from qabert.training import arguments
from qabert.training.arguments import FIXED, TRAINER_DEFAULTS, RunArguments
from qabert.training.recipes import parse

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.yaml"))


def recipe(tmp_path: Path, **keys) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return str(path)


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path):
    path = recipe(tmp_path, format="joint", max_length=64, learning_rate=1e-4, num_train_epochs=7)
    args = parse([path, "--max_length", "32", "--learning_rate", "2e-5"])
    assert (args.format, args.max_length, args.order) == ("joint", 32, "interleaved")
    trainer = args.training_arguments()
    assert (trainer.learning_rate, trainer.num_train_epochs) == (2e-5, 7)
    assert trainer.weight_decay == TRAINER_DEFAULTS["weight_decay"]
    assert trainer.metric_for_best_model == "eval_score"


def test_yaml_reads_5e_5_as_text_and_it_is_a_number_all_the_same(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 5e-5\nhead_learning_rate: 1e-3\n", encoding="utf-8")
    assert yaml.safe_load(path.read_text())["learning_rate"] == "5e-5"
    args = parse([str(path)])
    assert args.head_learning_rate == 1e-3
    assert args.training_arguments().learning_rate == 5e-5


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["--max_lenght", "64"], "max_length"),
        (["--weighted_samplin", "true"], "weighted_sampling"),
        (["--learning_rat", "1e-4"], "learning_rate"),
        (["--num_train_epoch", "1"], "num_train_epochs"),
        (["--per_device_batch_size", "8"], "per_device_train_batch_size|per_device_eval_batch_size"),
    ],
)
def test_a_misspelt_key_suggests_the_nearest(words, near):
    with pytest.raises(InputError, match=f"unknown key '{words[0][2:]}' .did you mean '({near})'"):
        parse(words)


def test_a_misspelt_key_of_a_recipe_suggests_too(tmp_path):
    with pytest.raises(InputError, match="did you mean 'encoder'"):
        parse([recipe(tmp_path, encodr="minilm")])


@pytest.mark.parametrize("key", [*FIXED, "train_sampling_strategy", "resume_from_checkpoint", "hub_token"])
def test_keys_that_the_package_sets_are_refused(key, tmp_path):
    with pytest.raises(InputError, match=f"key '{key}' is set by this package"):
        parse([f"--{key}", "true"])
    with pytest.raises(InputError, match=f"key '{key}' is set by this package"):
        parse([recipe(tmp_path, **{key: "x"})])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("max_length", "long", "expected a whole number"),
        ("max_length", "7", "at least 8"),
        ("max_length", "12.5", "expected a whole number"),
        ("head_blocks", "-1", "from 0 to 64"),
        ("head_dropout", "1", "from 0.0 to 0.95"),
        ("head_dropout", "nan", "from 0.0 to 0.95"),
        ("dropout", "much", "expected a number"),
        ("head_learning_rate", "-1", "at least 0"),
        ("head_learning_rate", "inf", "expected a number"),
        ("early_stopping_patience", "0", "at least 1"),
        ("freeze_encoder", "maybe", "expected true or false"),
        ("strict", "2", "expected true or false"),
        ("format", "qq", "did you mean 'qa'|known: joint, qa, separate"),
        ("order", "interleave", "did you mean 'interleaved'"),
        ("examples_per_epoch", "quora", "such as quora=8000"),
        ("examples_per_epoch", "quora=many", "such as quora=8000"),
        ("examples_per_epoch", "quora=0", "expected at least 1"),
        ("eval_examples", "quora=1.5", "such as quora=8000"),
        ("learning_rate", "fast", "learning_rate"),
        ("learning_rate", "0", "over 0"),
        ("learning_rate", "nan", "over 0"),
        ("num_train_epochs", "-3", "over 0"),
        ("per_device_train_batch_size", "0", "over 0"),
        ("per_device_train_batch_size", "2.5", "per_device_train_batch_size"),
        ("bf16", "perhaps", "bf16"),
        ("lr_scheduler_type", "zigzag", "zigzag"),
        ("eval_strategy", "sometimes", "sometimes"),
        ("ddp_timeout", "9" * 25, "training arguments"),
        ("data", "", "'data' is empty"),
    ],
)
def test_bad_values_name_the_key_and_what_was_expected(key, value, expected):
    with pytest.raises(InputError, match=expected) as caught:
        parse([f"--{key}", value])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [[1], {"a": 1}, True, None])
def test_a_recipe_value_of_the_wrong_kind(value, tmp_path):
    with pytest.raises(InputError, match="key 'max_length' has"):
        parse([recipe(tmp_path, max_length=value)])


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--examples_per_epoch", "quora=8000"], "examples_per_epoch", {"quora": 8000}),
        (["--examples_per_epoch=quora=8000, sst=5,"], "examples_per_epoch", {"quora": 8000, "sst": 5}),
        (["--strict"], "strict", True),
        (["--strict", "false"], "strict", False),
        (["--strict", "--max_length", "64"], "strict", True),
        (["--max_length=64"], "max_length", 64),
        (["--head_learning_rate=1e-3"], "head_learning_rate", 1e-3),
        (["--weighted_sampling=False"], "weighted_sampling", False),
        (["--data", "12"], "data", "12"),
    ],
)
def test_ways_to_write_a_flag(words, key, value):
    assert getattr(parse(words), key) == value


def test_ways_to_write_a_flag_of_the_trainer():
    args = parse(["--gradient_accumulation_steps=2", "--eval-on-start", "--seed", "5", "--run_name", "12"])
    trainer = args.training_arguments()
    assert (trainer.gradient_accumulation_steps, trainer.eval_on_start, trainer.seed) == (2, True, 5)
    assert trainer.run_name == "12"


def test_an_abbreviated_flag_is_an_error_and_no_guess():
    with pytest.raises(InputError, match=r"unknown key 'max_len'.*max_length"):
        parse(["--max_len", "64"])


def test_a_stray_word():
    with pytest.raises(InputError, match="'stray' belongs to no flag"):
        parse(["--seed", "1", "stray"])


def test_a_missing_recipe_lists_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe(tmp_path)
    with pytest.raises(InputError, match=r"no such file.*there are:.*recipe.yaml.*demo.yaml"):
        parse([str(tmp_path / "recip.yaml")])
    with pytest.raises(InputError, match=r"did you mean 'scripts/recipes/demo.yaml'"):
        parse(["scripts/recipes/dmo.yaml"])
    with pytest.raises(InputError, match="no such file"):
        parse([str(tmp_path)])


@pytest.mark.parametrize("key", ["examples_per_epoch", "eval_examples"])
def test_counts_of_an_unknown_task(key):
    args = parse([f"--{key}", "quorra=5"])
    with pytest.raises(InputError, match=f"key '{key}': unknown task 'quorra' .did you mean 'quora'"):
        args.load_tasks()


def test_a_recipes_tasks_file_stands_relative_to_the_recipe(tmp_path, monkeypatch):
    declared = {"tasks": {"mood": {"problem": "binary", "question": "Good?", "files": {"train": "mood.csv"}}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    path = recipe(tmp_path, tasks="mine.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tasks = parse([path]).load_tasks()
    assert list(tasks) == ["mood"]
    assert Path(tasks["mood"].files["train"]) == tmp_path / "mine.yaml" / ".." / "mood.csv" or Path(
        tasks["mood"].files["train"]
    ) == (tmp_path / "mood.csv")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = parse([str(path)])
    assert args.load_tasks()
    args.training_arguments()


def test_to_dict_round_trips(tmp_path):
    words = ["--strict", "--tasks", "sst,quora", "--examples_per_epoch", "quora=7", "--head_learning_rate", "1e-3"]
    args = parse([*words, "--learning_rate", "3e-5", "--optim", "adamw_torch", "--logging_steps", "7"])
    again = parse([recipe(tmp_path, **args.to_dict())])
    assert again.to_dict() == args.to_dict()
    assert again.training_arguments().to_dict() == args.training_arguments().to_dict()


def test_dictionaries_and_lists_reach_the_trainer(tmp_path):
    path = recipe(
        tmp_path, lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 1e-6}, report_to=["none"]
    )
    trainer = parse([path]).training_arguments()
    assert trainer.lr_scheduler_kwargs == {"min_lr": 1e-6}
    assert trainer.report_to == []
    flagged = parse(["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", "{min_lr: 0.1}"])
    assert flagged.training_arguments().lr_scheduler_kwargs == {"min_lr": 0.1}


@pytest.fixture(scope="module")
def help_run():
    """`--help` in a process of its own, which then lists what was imported."""
    code = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', '--help']\n"
        "try:\n    runpy.run_path('scripts/train.py', run_name='__main__')\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'datasets', 'evaluate', 'accelerate', 'numpy'}\n"
        "    print('imported:', sorted(heavy & set(sys.modules)))\n"
    )
    start = time.process_time(), os.times()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    now = os.times()
    seconds = now.children_user + now.children_system - start[1].children_user - start[1].children_system
    return done, seconds


def test_help_is_instant_and_imports_nothing_heavy(help_run):
    done, seconds = help_run
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stdout
    assert seconds < 1, f"--help took {seconds:.2f} s of processor time"


def test_help_lists_every_key_of_ours(help_run):
    for item in arguments.own_fields():
        assert f"--{item.name} VALUE" in help_run[0].stdout or f"--{item.name} [VALUE]" in help_run[0].stdout


OWN = [item.name for item in arguments.own_fields()]
TRAINERS = """
    learning_rate num_train_epochs max_steps warmup_steps seed optim lr_scheduler_type lr_scheduler_kwargs bf16 fp16
    eval_strategy eval_steps save_strategy save_steps save_total_limit logging_steps logging_strategy report_to fsdp
    fsdp_config deepspeed accelerator_config gradient_checkpointing gradient_accumulation_steps max_grad_norm
    adam_beta1 weight_decay label_smoothing_factor dataloader_num_workers dataloader_prefetch_factor group_by_length
    warmup_ratio ddp_backend debug optim_args torch_compile load_best_model_at_end parallelism_config hub_strategy
    per_device_train_batch_size per_device_eval_batch_size tf32 neftune_noise_alpha include_for_metrics
"""
VALUES = st.one_of(
    st.sampled_from(["true", "false", "0", "1", "-1", "0.5", "1e-5", "nan", "inf", "-inf", "1e400", "9" * 30, "", " "]),
    st.sampled_from(["steps", "epoch", "no", "best", "null", "~", "[1, 2]", "{a: 1}", "{", "[", "a=1", "2020-13-45"]),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from([*OWN, *TRAINERS.split()]) | st.text(max_size=8), VALUES, st.booleans()), max_size=4
    )
)
def test_any_words_give_arguments_or_an_input_error(pairs):
    words = []
    for key, value, joined in pairs:
        words += [f"--{key}={value}"] if joined else [f"--{key}", value]
    try:
        args = parse(words)
        assert isinstance(args, RunArguments)
        args.training_arguments()
    except InputError as error:
        assert str(error).strip()
    except SystemExit as stop:  # argparse: a flag without its value; --help or -h among the random keys
        assert stop.code in (0, 2)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from([*OWN, *TRAINERS.split()]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=4,
        ),
        max_size=3,
    )
)
def test_any_recipe_gives_arguments_or_an_input_error(tmp_path_factory, keys):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(yaml.safe_dump(keys, allow_unicode=True), encoding="utf-8")
    try:
        parse([str(path)]).training_arguments()
    except InputError as error:
        assert str(error).strip()


def test_a_backend_for_several_processes_needs_several(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match=r"key 'ddp_backend'.*torchrun"):
        parse(["--ddp_backend", "gloo", "--use_cpu", "true"])


@pytest.mark.parametrize("place", ["flag", "recipe"])
def test_a_strategy_may_be_no(tmp_path, place):
    # YAML reads a bare no as false.
    recipe = tmp_path / "r.yaml"
    recipe.write_text("eval_strategy: no\nsave_strategy: no\nload_best_model_at_end: false\n")
    flags = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    args = parse([str(recipe)] if place == "recipe" else flags).training_arguments()
    assert (args.eval_strategy.value, args.save_strategy.value) == ("no", "no")
