"""Wrong input: one line that names the place, exit code 2, no traceback, no model loaded, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qabert.cli import evaluate_main, predict_main, train_main
from qabert.data.sources import load_data, load_task
from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.model_config import read_config
from qabert.modeling import QABertModel
from qabert.task_files import load_tasks
from qabert.tasks import SST
from qabert.training.recipes import parse

CASES: dict[str, tuple[Callable, tuple[str, ...]]] = {}


class World:
    """What a case may damage: copies of the course's folder, a checkpoint and an encoder, and the commands' words."""

    def __init__(self, tmp: Path, course: Path, trained: str, encoder: str) -> None:
        self.tmp, self.data, self.out = tmp, tmp / "data", tmp / "out"
        self.model, self.encoder = tmp / "model", tmp / "encoder"
        for source, copy in ((course, self.data), (trained, self.model), (encoder, self.encoder)):
            shutil.copytree(source, copy)

    def train(self, *words, recipe=None, tasks="sst", **flags):
        base = {"data": self.data, "encoder": self.encoder, "output_dir": self.out, "max_length": 64, "tasks": tasks}
        base |= {"use_cpu": "true", "report_to": "none"} | flags
        pairs = [word for key, value in base.items() if value is not None for word in (f"--{key}", str(value))]
        return train_main, [*([str(recipe)] if recipe else []), *pairs, *words]

    def evaluate(self, *words, tasks="sst"):
        words = [*(["--tasks", str(tasks)] if tasks else []), *map(str, words)]
        if "--data" not in words:
            words += ["--data", str(self.data)]
        return evaluate_main, [str(self.model), "--device", "cpu", "--output_dir", str(self.out), *words]

    def predict(self, *words, task="sst"):
        return predict_main, [str(self.model), *(["--task", task] if task else []), *map(str, words)]

    def write(self, name: str, content) -> Path:
        path = self.tmp / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    def own(self, **changes):
        """Train on an own task whose declaration is changed."""
        task = {"problem": "classification", "question": "ab?", "labels": ["a", "b"], "columns": {"text_a": "t"}}
        task |= {"files": {"train": "t.csv", "dev": "t.csv"}} | changes
        task = {key: value for key, value in task.items() if value is not None}
        return self.train(tasks=self.write("tasks.yaml", {"tasks": {"own": task}}))

    def rows(self, text: str | bytes, name="ids-sst-dev.csv"):
        (self.data / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def dev(self, rows=(), head="id\tsentence\tsentiment", count=99):
        """A dev file of good rows, then others."""
        good = [f"{n}\tab cd\t{n % 5}" for n in range(count)]
        self.rows("\n".join([head, *good, *rows]) + "\n")

    def config(self, change) -> None:
        path = self.model / "config.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))


def case(*fragments: str):
    """Register a wrong input, with what its message has to name."""

    def register(function):
        assert function.__name__ not in CASES
        CASES[function.__name__] = (function, fragments)
        return function

    return register


def cases(table: dict[str, tuple[Callable, tuple[str, ...]]]) -> None:
    assert not set(table) & set(CASES)
    CASES.update(table)


# --- files of rows, through evaluate and train ------------------------------------------------------------------------


def dev_case(text):
    return lambda w: (w.rows(text), w.evaluate())[1]


def more_rows(*rows, words=()):
    return lambda w: (w.dev(rows), w.evaluate(*words))[1]


HEAD = "id\tsentence\tsentiment\n"
cases(
    {
        "no_data_folder": (lambda w: w.evaluate("--data", w.tmp / "nowhere"), ("nowhere", "no such folder")),
        "data_is_a_file": (lambda w: w.evaluate("--data", w.write("x.csv", "")), ("x.csv", "is a file")),
        "train_data_folder": (lambda w: w.train(data=w.tmp / "nowhere"), ("nowhere", "no such folder")),
        "file_missing": (
            lambda w: ((w.data / "ids-sst-dev.csv").rename(w.data / "ids-sst-devv.csv"), w.evaluate())[1],
            ("ids-sst-dev.csv: no such file", "task 'sst'", "did you mean 'ids-sst-devv.csv'"),
        ),
        "file_is_a_folder": (
            lambda w: ((w.data / "ids-sst-train.csv").unlink(), (w.data / "ids-sst-train.csv").mkdir(), w.train())[2],
            ("ids-sst-train.csv: is a folder",),
        ),
        "file_empty": (dev_case(""), ("ids-sst-dev.csv, line 1", "empty", "sentence, sentiment")),
        "only_a_header": (dev_case(HEAD), ("ids-sst-dev.csv: no rows",)),
        "only_blank_lines": (dev_case(HEAD + "\n\n\n"), ("ids-sst-dev.csv: no rows",)),
        "latin_1": (dev_case(HEAD.encode() + b"1\tab\t1\n2\tcaf\xe9\t2\n"), ("line 3, byte 6", "0xe9", "UTF-8")),
        "utf_16": (dev_case((HEAD + "1\tab\t1\n").encode("utf-16")), ("line 1", "UTF-16")),
        "binary": (dev_case(HEAD.encode() + b"1\ta\0b\t1\n"), ("line 2, byte 4", "NUL")),
        "spaces_for_tabs": (
            dev_case("id sentence sentiment\n1 ab 1\n"),
            ("line 1", "column 'sentence' is missing", "only one column was found"),
        ),
        "colons_for_tabs": (dev_case("id:sentence:sentiment\n1:ab:1\n"), ("line 1", "'sentence' is missing")),
        "column_missing": (dev_case("id\tsentence\n1\tab\n"), ("line 1", "column 'sentiment' is missing")),
        "column_misspelt": (
            dev_case("id\tsentense\tsentiment\n1\tab\t1\n"),
            ("column 'sentence' is missing", "did you mean 'sentense'"),
        ),
        "column_twice": (dev_case("id\tsentence\tsentence\tsentiment\n1\tab\tcd\t1\n"), ("'sentence' stands 2 times",)),
        "second_sentence_missing": (
            lambda w: (w.rows("id\tsentence1\tsimilarity\n1\tab\t1\n", "sts-dev.csv"), w.evaluate(tasks="sts"))[1],
            ("sts-dev.csv, line 1", "column 'sentence2' is missing"),
        ),
        "unlabelled_split": (lambda w: w.evaluate("--split", "test"), ("test-student.csv", "'sentiment' is missing")),
        "label_out_of_range": (more_rows("x\tab\t5", "y\tab\t-1"), ("line 101, column 'sentiment'", "'5'", "0 to 4")),
        "label_no_number": (more_rows("x\tab\tgood", "y\tab\tgood"), ("line 101, column 'sentiment'", "'good'")),
        "label_missing": (more_rows("x\tab\t", "y\tab\t"), ("line 101, column 'sentiment'", "missing")),
        "label_nan": (more_rows("x\tab\tnan", "y\tab\tinf"), ("line 101, column 'sentiment'", "'nan'")),
        "similarity_over_the_range": (
            lambda w: (
                w.rows("id\tsentence1\tsentence2\tsimilarity\n1\tab\tcd\t5.01\n", "sts-dev.csv"),
                w.evaluate(tasks="sts"),
            )[1],
            ("sts-dev.csv, line 2, column 'similarity'", "'5.01'", "from 0 to 5"),
        ),
        "duplicate_neither_0_nor_1": (
            lambda w: (
                w.rows("id\tsentence1\tsentence2\tis_duplicate\n1\tab\tcd\t0.5\n", "quora-dev.csv"),
                w.evaluate(tasks="quora"),
            )[1],
            ("quora-dev.csv, line 2, column 'is_duplicate'", "'0.5'"),
        ),
        "empty_sentences": (more_rows("x\t \t1", "y\t\t2"), ("line 101, column 'sentence'", "empty")),
        "fields_missing": (more_rows("x\tab", "y"), ("line 101, column 'sentiment'", "2 fields", "has 3")),
        "fields_too_many": (more_rows("x\tab\t1\t2", "y\tab\t1\t2"), ("line 101", "4 fields", "has 3")),
        "quote_never_closed": (more_rows('x\t"ab\t1', 'y\t"ab\t1'), ("line 101, column 'sentence'", "quote")),
        "five_percent_broken": (
            more_rows(*["x\tab\t9"] * 5),
            ("5 of 104 rows are broken", "more than the 1 %", "line 101", "line 105"),
        ),
        "a_hundredth_and_a_bit": (more_rows("x\tab\t9", "y\tab\t9"), ("2 of 101 rows are broken",)),
        "strict": (more_rows("x\tab\t9", words=["--strict"]), ("line 101, column 'sentiment'", "1 of 100", "strict")),
        "strict_training": (
            lambda w: (w.dev(["x\tab\t9"]), w.train("--strict"))[1],
            ("line 101, column 'sentiment'", "strict"),
        ),
        "text_without_end": (more_rows("x\t" + "a" * 100_001 + "\t1", "y\t\t1"), ("line 101", "100001 characters")),
        "demo_of_an_own_task": (
            lambda w: (w.own(files=None), w.train(tasks=w.tmp / "tasks.yaml", data="demo"))[1],
            ("task 'own'", "demo"),
        ),
        "hub_without_network": (
            lambda w: w.evaluate("--data", "hub"),
            ("'SetFit/sst5'", "task 'sst'", "can't be loaded", "HF_HUB_OFFLINE"),
        ),
        "own_file_missing": (lambda w: w.own(), ("t.csv", "no such file", "task 'own'")),
        "own_json_lines": (
            lambda w: (
                w.write("t.jsonl", '{"t": "ab", "label": "a"}\n{oh'),
                w.own(files={"train": "t.jsonl", "dev": "t.jsonl"}),
            )[1],
            ("t.jsonl, line 2", "not valid JSON"),
        ),
        "own_parquet": (
            lambda w: (w.write("t.parquet", "no"), w.own(files={"train": "t.parquet", "dev": "t.parquet"}))[1],
            ("t.parquet", "Parquet"),
        ),
        "own_kind_of_file": (
            lambda w: (w.write("t.xlsx", "no"), w.own(files={"train": "t.xlsx", "dev": "t.xlsx"}))[1],
            ("t.xlsx", "unknown kind of file '.xlsx'"),
        ),
        "own_label": (
            lambda w: (w.write("t.csv", "t,label\nab,a\nab,c\n"), w.own())[1],
            ("t.csv, line 3, column 'label'", "'c'", "a, b"),
        ),
        "own_split_undeclared": (
            lambda w: (w.write("t.csv", "t,label\nab,a\n"), w.own(files={"train": "t.csv"}))[1],
            ("task 'own'", "'files'", "'dev'"),
        ),
    }
)


# --- tasks ------------------------------------------------------------------------------------------------------------


def tasks_case(content):
    return lambda w: w.train(tasks=w.write("tasks.yaml", content))


def own_case(**changes):
    return lambda w: w.own(**changes)


cases(
    {
        "tasks_file_missing": (lambda w: w.train(tasks="nowhere.yaml"), ("nowhere.yaml", "No such file")),
        "tasks_not_yaml": (
            tasks_case("tasks:\n  own: {question: [}\n"),
            ("tasks.yaml, line 2, column", "not valid YAML"),
        ),
        "tasks_tab": (tasks_case("tasks:\n\town: {}\n"), ("tasks.yaml, line 2", "not valid YAML")),
        "tasks_latin_1": (tasks_case(b"tasks: {caf\xe9: 1}"), ("tasks.yaml", "not UTF-8")),
        "tasks_a_list": (tasks_case("- a\n"), ("tasks.yaml", "key: value", "list")),
        "tasks_empty": (tasks_case(""), ("tasks.yaml", "key: value")),
        "tasks_no_key": (tasks_case("own: {problem: binary}\n"), ("tasks.yaml", "'tasks:'", "['own']")),
        "tasks_none": (tasks_case("tasks: {}\n"), ("tasks.yaml", "no task")),
        "tasks_key_twice": (tasks_case("tasks:\n  sst:\n  sst:\n"), ("tasks.yaml, line 3", "'sst' stands twice")),
        "tasks_python": (tasks_case("tasks: !!python/object/apply:os.getcwd []"), ("tasks.yaml, line 1",)),
        "task_unknown": (lambda w: w.train(tasks="sst,qoura"), ("'qoura'", "did you mean 'quora'")),
        "task_twice": (lambda w: w.train(tasks="sst,sst"), ("named twice",)),
        "task_unknown_to_the_model": (lambda w: w.evaluate(tasks="stss"), ("'stss'", "did you mean 'sts'")),
        "task_name": (
            lambda w: w.train(tasks=w.write("t.yaml", {"tasks": {"a b": {"problem": "binary", "question": "?"}}})),
            ("'a b'",),
        ),
        "task_key": (own_case(lables=["a", "b"]), ("task 'own'", "'lables'", "did you mean 'labels'")),
        "task_problem": (own_case(problem="multi"), ("task 'own'", "'multi'", "classification")),
        "task_no_question": (own_case(question=None), ("task 'own'", "'question' is missing")),
        "task_labels_text": (own_case(labels="a, b"), ("'labels'", "list")),
        "task_one_label": (own_case(labels=["a"]), ("task 'own'", "'labels'", "two different")),
        "task_labels_yes_no": (own_case(problem="binary", labels=[True, False]), ("'labels'", "True", "quotes")),
        "task_three_labels": (own_case(problem="binary", labels=["a", "b", "c"]), ("'labels'", "got 3")),
        "task_range": (own_case(problem="regression", labels=None, range=[5, 1]), ("'range'", "low < high")),
        "task_no_range": (own_case(problem="regression", labels=None), ("'range'", "low < high")),
        "task_context": (own_case(context="{text_c}"), ("'context'", "{text_a}")),
        "task_columns": (own_case(columns={"txt_a": "t"}), ("'columns'", "'txt_a'", "did you mean 'text_a'")),
        "task_metric": (own_case(metrics=["f2"]), ("'metrics'", "'f2'")),
        "task_split": (own_case(files={"trian": "t.csv"}), ("'files'", "'trian'", "did you mean 'train'")),
        "tasks_a_number": (lambda w: w.train(recipe=w.write("r.yaml", "tasks: 5\n"), tasks=None), ("tasks", "5")),
        "tasks_list_of_mappings": (
            lambda w: w.train(recipe=w.write("r.yaml", "tasks: [{sst: 1}, sts]\n"), tasks=None),
            ("tasks", "sst"),
        ),
    }
)


# --- recipes and flags ------------------------------------------------------------------------------------------------


def recipe_case(content):
    return lambda w: w.train(recipe=w.write("recipe.yaml", content))


def flag_case(**flags):
    return lambda w: w.train(**flags)


cases(
    {
        "recipe_missing": (lambda w: w.train(recipe=w.tmp / "nowhere.yaml"), ("nowhere.yaml", "no such file")),
        "recipe_a_folder": (lambda w: w.train(recipe=w.tmp), ("recipe", "no such file")),
        "recipe_not_yaml": (recipe_case("format: qa\norder: [\n"), ("recipe.yaml, line 3", "not valid YAML")),
        "recipe_a_text": (recipe_case("qa"), ("recipe.yaml", "key: value")),
        "recipe_key_twice": (
            recipe_case("seed: 1\nformat: qa\nseed: 2\n"),
            ("recipe.yaml, line 3", "'seed' stands twice"),
        ),
        "recipe_typo": (recipe_case("lerning_rate: 1.0e-5\n"), ("'lerning_rate'", "did you mean 'learning_rate'")),
        "recipe_type": (recipe_case("head_blocks: [4]\n"), ("'head_blocks'", "[4]", "whole number")),
        "recipe_counts": (recipe_case("examples_per_epoch: {sts: many}\n"), ("'examples_per_epoch'", "rows by task")),
        "recipe_own_key": (recipe_case("metric_for_best_model: loss\n"), ("'metric_for_best_model'", "remove it")),
        "flag_typo": (lambda w: w.train("--ordre", "sequential"), ("'ordre'", "did you mean 'order'")),
        "flag_format": (flag_case(format="qaa"), ("'format'", "'qaa'", "did you mean 'qa'")),
        "flag_order": (flag_case(order="random"), ("'order'", "'random'", "sequential")),
        "flag_number": (flag_case(learning_rate="fast"), ("learning_rate", "fast")),
        "flag_negative": (flag_case(learning_rate="-1"), ("'learning_rate'", "-1")),
        "flag_nan": (flag_case(head_learning_rate="nan"), ("'head_learning_rate'", "nan")),
        "flag_epochs": (flag_case(num_train_epochs=0), ("'num_train_epochs'", "over 0")),
        "flag_batch": (flag_case(per_device_train_batch_size=0), ("'per_device_train_batch_size'", "over 0")),
        "flag_dropout": (flag_case(head_dropout=1.5), ("'head_dropout'", "1.5")),
        "flag_bool": (flag_case(freeze_encoder="perhaps"), ("'freeze_encoder'", "true or false")),
        "flag_counts_of_no_task": (flag_case(examples_per_epoch="quora=5"), ("'examples_per_epoch'", "'quora'")),
        "flag_counts_zero": (flag_case(eval_examples="sst=0"), ("'eval_examples'", "'sst'", "at least 1")),
        "flag_scheduler": (flag_case(lr_scheduler_type="linaer"), ("lr_scheduler_type", "linaer")),
        "flag_without_value": (lambda w: w.train("--format"), ("--format", "expected one argument")),
        "word_of_no_flag": (lambda w: w.train("--resume", "auto", "word"), ("'word'",)),
        "max_length_over_the_positions": (flag_case(max_length=129), ("max_length 129", "128 positions")),
        "max_length_under_the_question": (flag_case(max_length=16), ("max_length 16", "task 'sst'")),
        "max_length_tiny": (flag_case(max_length=2), ("'max_length'", "at least 8")),
        "data_empty": (flag_case(data=""), ("'data' is empty",)),
        "attention": (flag_case(attn_implementation="flashy"), ("flashy",)),
    }
)


# --- encoders ---------------------------------------------------------------------------------------------------------


def encoder_file(name, change):
    def run(w):
        path = w.encoder / name
        path.write_bytes(change(path.read_bytes())) if change else path.unlink()
        return w.train()

    return run


cases(
    {
        "encoder_not_to_be_had": (flag_case(encoder="no/such-encoder"), ("'no/such-encoder'", "--encoder", "offline")),
        "encoder_folder_empty": (lambda w: ((w.tmp / "e").mkdir(), w.train(encoder=w.tmp / "e"))[1], ("config.json",)),
        "encoder_a_file": (lambda w: w.train(encoder=w.write("e", "")), ("config.json",)),
        "encoder_config_cut": (encoder_file("config.json", lambda b: b[:50]), ("encoder", "config.json")),
        "encoder_config_a_list": (encoder_file("config.json", lambda b: b"[]"), ("encoder",)),
        "encoder_of_no_known_kind": (encoder_file("config.json", lambda b: b.replace(b'"bert"', b'"brt"')), ("brt",)),
        "encoder_no_text_model": (encoder_file("config.json", lambda b: b'{"model_type": "vit"}'), ("vit",)),
        "encoder_that_is_ours": (lambda w: w.train(encoder=w.model), ("encoder", "qabert model")),
        "encoder_tokenizer_cut": (encoder_file("tokenizer.json", lambda b: b[:500]), ("encoder",)),
        "encoder_without_tokenizer": (
            lambda w: ([p.unlink() for p in w.encoder.glob("*token*")], w.train())[1],
            ("encoder", "tokenizer"),
        ),
        "encoder_without_padding": (
            encoder_file("tokenizer_config.json", lambda b: b.replace(b'"pad_token"', b'"bad_token"')),
            ("encoder", "padding token"),
        ),
        "encoder_without_weights": (encoder_file("model.safetensors", None), ("encoder",)),
        "encoder_weights_cut": (encoder_file("model.safetensors", lambda b: b[:3000]), ("encoder",)),
        "encoder_weights_of_another_size": (
            encoder_file("config.json", lambda b: b.replace(b'"intermediate_size": 32', b'"intermediate_size": 48')),
            ("encoder",),
        ),
    }
)


# --- output folders ---------------------------------------------------------------------------------------------------


@case("out", "already holds a run", "--resume auto", "--overwrite")
def output_holds_a_run(w):
    w.out.mkdir()
    (w.out / "arguments.yaml").write_text("seed: 1\n")
    return w.train()


@case("out", "holds no arguments.yaml", "left as it is")
def output_to_overwrite_is_no_run(w):
    w.out.mkdir()
    (w.out / "thesis.txt").write_text("years of work")
    return w.train("--overwrite")


@case("nowhere", "no such folder")
def overwrite_with_wrong_data(w):
    w.out.mkdir()
    (w.out / "arguments.yaml").write_text("seed: 1\n")
    return w.train("--overwrite", data=w.tmp / "nowhere")


@case("out", "is a file")
def output_is_a_file(w):
    w.out.write_text("")
    return w.train()


@case("file", "can't be written")
def output_inside_a_file(w):
    return w.train(output_dir=w.write("file", "") / "out")


@case("'resume'", "nowhere", "no checkpoint")
def resume_from_nowhere(w):
    return w.train(resume=w.tmp / "nowhere")


@case("'seed'", "was 1", "is 2 now", "same settings")
def resume_with_other_settings(w):
    from qabert.training.output import described

    main, argv = w.train("--resume", "auto")
    args = parse([*argv, "--seed", "1"])
    w.out.mkdir()
    (w.out / "arguments.yaml").write_text(yaml.safe_dump(described(args, args.load_tasks())))
    return main, [*argv, "--seed", "2"]


@case("arguments.yaml, line 1", "not valid YAML")
def resume_with_a_damaged_marker(w):
    w.out.mkdir()
    (w.out / "arguments.yaml").write_text("[")
    return w.train("--resume", "auto")


cases(
    {
        "evaluate_output_is_a_file": (lambda w: (w.out.write_text(""), w.evaluate())[1], ("out", "is a file")),
        "predict_output_is_a_folder": (lambda w: w.predict("ab", "--output", w.data), ("data", "is a folder")),
        "predict_output_inside_a_file": (
            lambda w: w.predict("ab", "--output", w.write("file", "") / "x.csv"),
            ("x.csv", "is a file"),
        ),
        "submissions_into_a_file": (
            lambda w: w.predict("--data", w.data, "--output_dir", w.write("file", ""), task=None),
            ("file", "is a file"),
        ),
    }
)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def model_file(name, change):
    def run(w):
        path = w.model / name
        path.write_bytes(change(path.read_bytes())) if change else path.unlink()
        return w.predict("ab", "--device", "cpu")

    return run


def config_case(change):
    return lambda w: (w.config(change), w.predict("ab", "--device", "cpu"))[1]


def drop_tensor(w):
    from safetensors.torch import load_file, save_file

    path = w.model / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "head_sst" in name))
    save_file(tensors, path, metadata={"format": "pt"})
    return w.predict("ab", "--device", "cpu")


def flip(data: bytes) -> bytes:
    return data[:3] + bytes([data[3] ^ 0xFF]) + data[4:]


cases(
    {
        "model_missing": (lambda w: (shutil.rmtree(w.model), w.predict("ab"))[1], ("model", "no such folder")),
        "model_empty": (
            lambda w: ((w.tmp / "m").mkdir(), (predict_main, [str(w.tmp / "m"), "ab"]))[1],
            ("config.json",),
        ),
        "model_a_file": (lambda w: (predict_main, [str(w.write("m", "")), "ab"]), ("config.json",)),
        "model_is_an_encoder": (lambda w: (predict_main, [str(w.encoder), "ab"]), ("'bert' model", "qabert")),
        "config_cut": (model_file("config.json", lambda b: b[: len(b) // 2]), ("config.json", "can't be read")),
        "config_flipped": (model_file("config.json", flip), ("config.json",)),
        "config_a_list": (model_file("config.json", lambda b: b"[]"), ("config.json",)),
        "config_null": (model_file("config.json", lambda b: b"null"), ("config.json",)),
        "config_model_type": (config_case(lambda c: c.update(model_type="brt")), ("config.json", "'brt'")),
        "config_without_tasks": (config_case(lambda c: c.update(tasks=[])), ("config.json",)),
        "config_tasks_a_text": (config_case(lambda c: c.update(tasks="sst")), ("config.json",)),
        "config_task_damaged": (config_case(lambda c: c["tasks"][0].pop("problem")), ("config.json", "'problem'")),
        "config_task_key": (config_case(lambda c: c["tasks"][0].update(x=1)), ("config.json", "'x'")),
        "config_format": (config_case(lambda c: c.update(input_format="qqa")), ("qqa",)),
        "config_max_length_text": (config_case(lambda c: c.update(max_length="long")), ("max_length",)),
        "config_encoder_gone": (config_case(lambda c: c.pop("encoder")), ("config.json", "encoder")),
        "config_encoder_unknown": (config_case(lambda c: c["encoder"].update(model_type="x")), ("config.json", "'x'")),
        "config_width_text": (config_case(lambda c: c["encoder"].update(hidden_size="w")), ("config.json",)),
        "config_width_zero": (config_case(lambda c: c["encoder"].update(hidden_size=0)), ("model",)),
        "config_heads_odd": (config_case(lambda c: c["encoder"].update(num_attention_heads=3)), ("model",)),
        "config_other_shapes": (
            config_case(lambda c: c["encoder"].update(intermediate_size=48)),
            ("mismatched weights",),
        ),
        "config_other_vocabulary": (config_case(lambda c: c["encoder"].update(vocab_size=700)), ("model",)),
        "config_more_blocks": (
            config_case(lambda c: c.update(head_blocks=3)),
            ("model.safetensors", "mismatched weights", "head_sst"),
        ),
        "config_fewer_blocks": (config_case(lambda c: c.update(head_blocks=0)), ("weights", "head_")),
        "config_more_layers": (config_case(lambda c: c["encoder"].update(num_hidden_layers=3)), ("missing weights",)),
        "config_fewer_layers": (
            config_case(lambda c: c["encoder"].update(num_hidden_layers=1)),
            ("unexpected weights",),
        ),
        "config_other_task": (
            config_case(lambda c: c["tasks"][1].update(name="stx")),
            ("model.safetensors", "weights"),
        ),
        "weights_missing": (model_file("model.safetensors", None), ("its weights can't be loaded",)),
        "weights_empty": (model_file("model.safetensors", lambda b: b""), ("its weights can't be loaded",)),
        "weights_cut": (model_file("model.safetensors", lambda b: b[:-1000]), ("its weights can't be loaded",)),
        "weights_header_flipped": (model_file("model.safetensors", flip), ("its weights can't be loaded",)),
        "weights_are_text": (
            model_file("model.safetensors", lambda b: b"version https://git-lfs"),
            ("its weights can't be loaded",),
        ),
        "weights_lack_a_tensor": (drop_tensor, ("model.safetensors", "1 missing weights", "head_sst")),
        "tokenizer_missing": (model_file("tokenizer.json", None), ("tokenizer",)),
        "tokenizer_all_missing": (
            lambda w: ([p.unlink() for p in w.model.glob("*token*")], w.predict("ab", "--device", "cpu"))[1],
            ("tokenizer",),
        ),
        "tokenizer_without_padding": (
            model_file("tokenizer_config.json", lambda b: b.replace(b'"pad_token"', b'"bad_token"')),
            ("tokenizer", "padding token"),
        ),
        "tokenizer_cut": (model_file("tokenizer.json", lambda b: b[:999]), ("tokenizer",)),
        "tokenizer_flipped": (model_file("tokenizer.json", flip), ("tokenizer",)),
        "tokenizer_of_another_model": (
            model_file("tokenizer.json", lambda b: b.replace(b'"ab": ', b'"ab": 9')),
            ("tokenizer doesn't belong", "800 tokens"),
        ),
        "evaluate_a_damaged_model": (
            lambda w: ((w.model / "model.safetensors").write_bytes(b""), w.evaluate())[1],
            ("model",),
        ),
    }
)


# --- predict ----------------------------------------------------------------------------------------------------------

cases(
    {
        "nothing_asked": (lambda w: w.predict(), ("--file", "--data")),
        "two_things_asked": (lambda w: w.predict("ab", "--data", w.data), ("'data'", "'sentences'")),
        "no_task": (lambda w: w.predict("ab", task=None), ("--task", "sst, sts, quora")),
        "several_tasks": (lambda w: w.predict("ab", task="sst,sts"), ("--task", "sst, sts")),
        "unknown_task": (lambda w: w.predict("ab", task="ssst"), ("'ssst'", "did you mean 'sst'")),
        "one_sentence_of_two": (lambda w: w.predict("ab", task="sts"), ("'sts'", "2 sentence", "got 1")),
        "two_sentences_of_one": (lambda w: w.predict("ab", "cd"), ("'sst'", "1 sentence", "got 2")),
        "empty_sentence": (lambda w: w.predict(" "), ("empty",)),
        "undecodable_sentence": (lambda w: w.predict("caf\udce9"), ("Unicode",)),
        "no_model_named": (lambda w: (predict_main, []), ("model",)),
        "device_nonsense": (lambda w: w.predict("ab", "--device", "gpu9"), ("device 'gpu9'",)),
        "device_without_data": (lambda w: w.predict("ab", "--device", "meta"), ("device 'meta'",)),
        "device_not_there": (lambda w: w.predict("ab", "--device", "cuda:77"), ("device 'cuda:77'",)),
        "batch_size_zero": (lambda w: w.predict("ab", "--batch_size", "0"), ("--batch_size", "'0'")),
        "flag_unknown": (lambda w: w.predict("ab", "--outptu", "x"), ("--outptu",)),
        "evaluate_split": (lambda w: w.evaluate("--split", "validation"), ("--split", "validation")),
        "evaluate_without_data": (lambda w: (evaluate_main, [str(w.model)]), ("task 'sst'", "data")),
        "evaluate_tasks_file": (lambda w: w.evaluate(tasks=w.tmp / "no.yaml"), ("no.yaml", "No such file")),
        "evaluate_split_undeclared": (
            lambda w: w.evaluate(
                "--split", "test", tasks=w.write("t.yaml", {"tasks": {"sst": {"files": {"dev": "x"}}}})
            ),
            ("'sst'", "'files'", "'test'"),
        ),
        "evaluate_demo_test": (lambda w: w.evaluate("--data", "demo", "--split", "test"), ("'sst'", "'test'", "label")),
        "file_of_rows_missing": (lambda w: w.predict("--file", w.tmp / "no.csv"), ("no.csv", "No such file")),
        "file_of_lines_missing": (lambda w: w.predict("--file", w.tmp / "no.txt"), ("no.txt", "No such file")),
        "file_of_lines_a_folder": (lambda w: w.predict("--file", w.tmp), ("can't be read",)),
        "file_of_lines_latin_1": (lambda w: w.predict("--file", w.write("x.txt", b"a\nb\xe9\n")), ("x.txt, line 2",)),
        "file_of_lines_blank": (lambda w: w.predict("--file", w.write("x.txt", "a\n\nb\n")), ("x.txt, line 2",)),
        "file_of_lines_empty": (lambda w: w.predict("--file", w.write("x.txt", "")), ("x.txt: no rows",)),
        "file_column": (
            lambda w: w.predict("--file", w.write("x.csv", "text\nab\n")),
            ("x.csv", "'sentence' is missing"),
        ),
        "file_row": (
            lambda w: w.predict("--file", w.write("x.csv", "sentence,n\nab,1\n,2\n")),
            ("x.csv, line 3, column 'sentence'",),
        ),
        "file_no_pairs": (
            lambda w: w.predict("--file", w.write("x.txt", "ab cd\n"), task="sts"),
            ("x.txt, line 1", "tab"),
        ),
        "submissions_of_no_folder": (lambda w: w.predict("--data", w.tmp / "no", task=None), ("no", "dev and test")),
        "submissions_broken": (
            lambda w: (w.dev(["x\t\t1"] * 5), w.predict("--data", w.data, "--output_dir", w.out, task=None))[1],
            ("ids-sst-dev.csv", "5 of 104 rows", "line 101, column 'sentence'"),
        ),
    }
)


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """Which models were loaded: attempts on damaged files that raise don't count."""
    seen: list[str] = []

    def spy(name):
        original = getattr(QABertModel, name).__func__

        def wrapped(cls, *args, **kwargs):
            result = original(cls, *args, **kwargs)
            seen.append(name)
            return result

        monkeypatch.setattr(QABertModel, name, classmethod(wrapped))

    spy("from_encoder")
    spy("from_pretrained")
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    if folder.is_file():
        return {"": folder.read_bytes()}
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


#: Whether weights and tokenizer fit their configuration is known once they are read.
READ_FIRST = {
    *("weights_lack_a_tensor", "tokenizer_of_another_model"),
    *(name for name in CASES if name.startswith(("config_more", "config_fewer", "config_other"))),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_one_plain_message(name, tmp_path, course_folder, trained, encoder_path, loaded, capsys):
    make, fragments = CASES[name]
    main, argv = make(World(tmp_path, course_folder, trained, encoder_path))
    before = contents(tmp_path / "out")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(argv)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    errors = re.findall(r"(?m)^(?:\S+: )?error: .*", captured.err)
    assert len(errors) == 1, captured.err
    message = captured.err[captured.err.index("error: ") :]
    for fragment in fragments:
        assert fragment in message, message
    assert "Traceback" not in captured.err + captured.out
    assert len(message) < 2500
    assert loaded == [] or name in READ_FIRST
    assert contents(tmp_path / "out") == before
    assert not list(tmp_path.rglob("*.part"))


def test_there_are_enough_cases():
    assert len(CASES) >= 60


# --- bytes at random --------------------------------------------------------------------------------------------------

EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["replace", "insert", "delete", "cut", "double"]),
        st.binary(min_size=1, max_size=3) | st.sampled_from([bytes([byte]) for byte in b'\t\n",:[{-9\xff']),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, edits) -> bytes:
    for share, kind, new, count in edits:
        at = int(share * len(data))
        if kind == "replace":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + count :]
        elif kind == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[at : at + count] + data[at:]
    return data


RECIPE = """
data: {data}
tasks: sst,sts
encoder: {encoder}
format: qa
order: interleaved
examples_per_epoch: {{sts: 80}}
output_dir: runs/x
num_train_epochs: 4
learning_rate: 1.0e-4
lr_scheduler_type: linear
freeze_encoder: false
head_width: 32
"""
TASKS = """
tasks:
  own:
    problem: classification
    question: "How is it?"
    labels: [bad, "so, so", good]
    columns: {text_a: sentence, label: sentiment, id: id}
    context: "It reads: {text_a}"
    files: {train: small.csv, dev: small.csv}
    metrics: [accuracy]
    output: [own, Predicted]
  sts:
  heat:
    problem: regression
    question: "How hot?"
    range: [-10, 110]
    columns: {text_a: sentence, label: sentiment}
    files: {train: small.csv, dev: small.csv}
"""
SMALL = "\tid\tsentence\tsentiment\n" + "".join(f'{n}\tr{n}\t"ab, ""cd"" {n}"\t{n % 3}\n' for n in range(12))


def read_rows(path: Path) -> None:
    load_task(SST, path.parent, ("dev",))


def read_recipe(path: Path) -> None:
    args = parse([str(path)])
    args.load_tasks()
    args.training_arguments()


def read_tasks(path: Path) -> None:
    load_data(load_tasks(str(path)), path.parent)


FUZZED = {
    "ids-sst-dev.csv": (SMALL, read_rows),
    "recipe.yaml": (RECIPE.format(data="data", encoder="encoder"), read_recipe),
    "tasks.yaml": (TASKS, read_tasks),
    "config.json": (None, lambda path: read_config(str(path.parent))),
}


@pytest.mark.parametrize("name", FUZZED)
@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_damaged_bytes_are_read_or_refused(name, edits, tmp_path_factory, trained, course_folder):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    if not folder.is_dir():
        shutil.copytree(course_folder, folder)
        (folder / "small.csv").write_text(SMALL)
    valid, read = FUZZED[name]
    data = valid.encode() if valid is not None else Path(trained, "config.json").read_bytes()
    (folder / name).write_bytes(mutate(data, edits))
    try:
        read(folder / name)
    except InputError as error:
        assert str(error).strip()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_a_checkpoint_with_damaged_bytes_answers_or_is_refused(name, edits, tmp_path_factory, trained):
    folder = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    if not folder.is_dir():
        shutil.copytree(trained, folder)
    (folder / name).write_bytes(mutate(Path(trained, name).read_bytes(), edits))
    try:
        (answer,) = Predictor.from_pretrained(str(folder), "cpu").predict("sts", [("ab cd", "ef")])
        assert 0 <= answer["value"] <= 5
    except InputError as error:
        assert str(error).strip()


@pytest.mark.parametrize("name", FUZZED)
def test_what_is_damaged_at_random_is_whole_before(name, tmp_path, trained, course_folder):
    folder = shutil.copytree(course_folder, tmp_path / "data")
    (folder / "small.csv").write_text(SMALL)
    valid, read = FUZZED[name]
    (folder / name).write_bytes(valid.encode() if valid is not None else Path(trained, "config.json").read_bytes())
    read(folder / name)
