"""Malformed input by number: `case(seed, templates)` is the same command and files for a seed, whatever ran before.

A case is plain JSON: words of a command, and what to do to copies of the templates (a folder of rows, a checkpoint, an
encoder).  So a case that failed once is stored as it was, and means the same after this generator has changed.
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fuzz_damage import VALUES, apply_edits, damage_json, damage_table, damage_tree, damage_yaml, edit_bytes

Change = dict[str, Any]


@dataclass
class Case:
    """A command and the files it finds, in a folder that holds copies of the templates it names.

    Args:
        name: The seed, or what a stored case is called.
        kind: What is malformed.
        command: train, evaluate, predict, explain or reproduce.
        argv: The command's words; paths are relative to the case's folder.
        files: By path, the content: `text`, `base64`, `edits` of a template ([position, bytes removed, hex inserted]),
            `remove`, `folder`, or `link`.
        stdin: Standard input, in base64.
    """

    name: str
    kind: str
    command: str
    argv: list[str]
    files: dict[str, Change] = field(default_factory=dict)
    stdin: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def content(data: bytes) -> Change:
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


STEP = ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true", "--max_steps", "1"]
PLAIN = ["--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
TRAIN = ["--data", "data", "--encoder", "encoder", "--output_dir", "out", "--max_length", "128", "--head_blocks", "1"]
EVALUATE = ["model", "--device", "cpu", "--data", "data", "--output_dir", "out"]
PREFIXES = {"sst": "ids-sst", "sts": "sts", "quora": "quora"}
QUESTIONS = {"sst": "How is it?", "sts": "How alike?", "quora": "The same?"}
RECIPE = {
    "data": "data", "tasks": "sst,sts", "encoder": "encoder", "format": "qa", "order": "interleaved", "max_length": 128,
    "examples_per_epoch": {"sst": 16}, "eval_examples": {"sts": 9}, "output_dir": "out", "num_train_epochs": 1,
    "learning_rate": 1e-4, "warmup_steps": 0.1, "per_device_train_batch_size": 8, "lr_scheduler_type": "linear",
    "freeze_encoder": False, "head_width": 16, "head_blocks": 1, "head_dropout": 0.1, "pooling": "mean", "seed": 3,
    "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "logging_steps": 1,
    "weight_decay": 0.01,
}  # fmt: skip
TASKS = {
    "tasks": {
        "own": {
            "problem": "classification", "question": "How is it?", "labels": ["bad", "so, so", "good"],
            "columns": {"text_a": "sentence", "label": "label", "id": "id"}, "context": "It reads: {text_a}",
            "files": {"train": "own.csv", "dev": "own.csv"}, "metrics": ["accuracy", "macro_f1"],
            "output": ["own", "Predicted"],
        },
        "heat": {
            "problem": "regression", "question": "How hot?", "range": [-10, 110],
            "columns": {"text_a": "sentence", "label": "label"},
            "files": {"train": "own.csv", "dev": "own.csv"},
        },
        "like": {
            "problem": "binary", "question": "Alike?",
            "columns": {"text_a": "sentence", "text_b": "other", "label": "label"},
            "files": {"train": "two.csv", "dev": "two.csv"}, "labels": ["no", "yes"],
        },
    }
}  # fmt: skip
PLAN = {
    "settings": {"data": "data", "encoder": "encoder", "tasks": "sst", "max_length": 64, "head_blocks": 0},
    "seeds": [1], "arms": {"separate": {"format": "separate"}, "qa": {"question": "other"}}, "notes": {"qa": "asks"},
    "paper": {"qa": "qa"}, "compare": [["separate", "qa"]], "questions": {"other": {"sst": "What is it?"}},
    "question_rows": 5, "saliency": {"rows": 2, "arms": ["qa"]},
}  # fmt: skip
OWN = "id,sentence,label\n" + "".join(f"r{n},ab cd {n},{n % 3}\n" for n in range(9))
TWO = "sentence,other,label\n" + "".join(f"ab {n},cd,{n % 2}\n" for n in range(9))


def own_files(tasks: bytes) -> dict[str, Change]:
    return {"tasks.yaml": content(tasks), "own.csv": content(OWN.encode()), "two.csv": content(TWO.encode())}


def rows_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    """A folder of rows with one damaged file."""
    task = rng.choice(list(PREFIXES))
    split, train = rng.choice(["train", "dev"]), rng.random() < 0.5
    name = f"data/{PREFIXES[task]}-{split}.csv"
    damaged = damage_table(rng, (templates / name).read_text(), "\t")
    files = {name: content(damaged)}
    if rng.random() < 0.05:
        files[name] = rng.choice(
            [{"remove": True}, {"folder": True}, {"link": "nowhere"}, {"link": PREFIXES[task] + "-" + split + ".csv"}]
        )
    strict = ["--strict"] * (rng.random() < 0.2)
    if train:
        return "train", [*TRAIN, "--tasks", task, *PLAIN, *strict, *STEP], files, b""
    if rng.random() < 0.2:
        return (
            "predict",
            ["model", "--device", "cpu", "--data", "data", "--task", task, "--output_dir", "out"],
            files,
            b"",
        )
    return "evaluate", [*EVALUATE, "--tasks", task, "--split", split, *strict], files, b""


def table_of(rng: random.Random, pair: bool, suffix: str) -> bytes:
    """A damaged file of rows of a person's own, in any format."""
    heads = ["sentence1", "sentence2"] if pair else ["sentence"]
    rows: list[dict[str, Any]] = [{name: f"ab cd {n}" for name in heads} | {"label": n % 2} for n in range(6)]
    if suffix == ".txt":
        text = "\n".join("\t".join(str(row[name]) for name in heads) for row in rows)
        return damage_table(rng, text, "\t")
    if suffix in (".csv", ".tsv"):
        mark = "," if suffix == ".csv" else "\t"
        return damage_table(
            rng, "\n".join([mark.join([*heads, "label"]), *(mark.join(map(str, row.values())) for row in rows)]), mark
        )
    if suffix == ".jsonl":
        rows = damage_tree(rng, rows, 2) if rng.random() < 0.7 else rows
        lines = [json.dumps(row) for row in (rows if isinstance(rows, list) else [rows])]
        data = "\n".join(lines).encode()
        return data if rng.random() < 0.6 else apply_edits(data, edit_bytes(rng, len(data)))
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    if rng.random() < 0.5:
        name = rng.choice([*columns, "x"])
        odd: list[Any] = [None, b"\xff", 1.5, [1], {"a": 1}, "x", float("nan"), True]
        columns[name] = [rng.choice(odd)] * rng.choice([6, 6, 6, 5])
    names = list(columns)
    if rng.random() < 0.2:
        names[-1] = rng.choice(names)
    size = min(map(len, columns.values()))
    table = pyarrow.Table.from_arrays([pyarrow.array(column[:size]) for column in columns.values()], names=names)
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression=rng.choice(["snappy", "gzip", "zstd", "none"]))
    data = sink.getvalue()
    return apply_edits(data, edit_bytes(rng, len(data))) if rng.random() < 0.7 else data


def own_rows_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    task, suffix = rng.choice(list(PREFIXES)), rng.choice([".csv", ".tsv", ".jsonl", ".parquet", ".parquet", ".txt"])
    files = {f"rows{suffix}": content(table_of(rng, task != "sst", suffix))}
    if rng.random() < 0.3 and suffix != ".txt":
        columns = {"text_a": "sentence1", "text_b": "sentence2"} if task != "sst" else {"text_a": "sentence"}
        declared = {
            task: {"files": {"train": f"rows{suffix}", "dev": f"rows{suffix}"}, "columns": columns | {"label": "label"}}
        }
        files["tasks.yaml"] = content(yaml.safe_dump({"tasks": declared}).encode())
        if rng.random() < 0.5:
            return "train", [*TRAIN, "--tasks", "tasks.yaml", *PLAIN, *STEP], files, b""
        return "evaluate", [*EVALUATE, "--tasks", "tasks.yaml"], files, b""
    out = ["--output", "answers.csv"] * (rng.random() < 0.5)
    return "predict", ["model", "--device", "cpu", "--task", task, "--file", f"rows{suffix}", *out], files, b""


def stdin_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    task = rng.choice(list(PREFIXES))
    data = table_of(rng, task != "sst", ".txt") if rng.random() < 0.8 else rng.randbytes(rng.choice([0, 1, 40, 9000]))
    return "predict", ["model", "--device", "cpu", "--task", task, "--file", "-"], {}, data


def tasks_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    name = rng.choice(list(TASKS["tasks"]))
    if rng.random() < 0.3:
        declared = {
            "tasks": {
                "sst": {
                    "files": {"train": "own.csv", "dev": "own.csv"},
                    "columns": {"text_a": "sentence", "label": "label"},
                }
            }
        }
        return "evaluate", [*EVALUATE, "--tasks", "tasks.yaml"], own_files(damage_yaml(rng, declared, 2)), b""
    files = own_files(damage_yaml(rng, {"tasks": {name: TASKS["tasks"][name]}}, 2))
    return "train", [*TRAIN, "--tasks", "tasks.yaml", *PLAIN, *STEP], files, b""


def recipe_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    tree = dict(RECIPE)
    if rng.random() < 0.2:
        tree["tasks"] = {"sst": None, "own": TASKS["tasks"]["own"]}
        del tree["eval_examples"]
    if rng.random() < 0.2:
        tree |= {"triplet_loss": "ranking", "triplet_examples": {"sst": 8}, "triplet_batch_size": 4}
    return (
        "train",
        ["recipe.yaml", "--output_dir", "out", *STEP],
        own_files(b"") | {"recipe.yaml": content(damage_yaml(rng, tree))},
        b"",
    )


def plan_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    tree = damage_tree(rng, PLAN, 2) if rng.random() < 0.6 else PLAN
    files = {"plan.yaml": content(damage_yaml(rng, tree))}
    return "reproduce", ["plan.yaml", "--output_dir", "out", *STEP, *PLAIN], files, b""


#: Keys of the Trainer that ask for machines, minutes or gigabytes, which are theirs to give, and `--max_steps`.
COSTLY = ("torch_compile", "torch_compile_backend", "torch_compile_mode", "dataloader_num_workers", "max_steps")
WORDS = {
    "train": ["data", "tasks", "encoder", "format", "max_length", "order", "examples_per_epoch", "weighted_sampling",
              "prior_correction", "eval_examples", "pooling", "head_blocks", "head_width", "head_dropout", "dropout",
              "freeze_encoder", "head_learning_rate", "attn_implementation", "early_stopping_patience",
              "score_untrained", "triplet_loss", "triplet_examples", "triplet_batch_size", "triplet_learning_rate",
              "strict", "cache", "resume", "overwrite"],
    "evaluate": ["data", "split", "tasks", "output_dir", "strict", "batch_size", "device"],
    "predict": ["task", "file", "output", "data", "output_dir", "batch_size", "device"],
    "explain": ["task", "methods", "steps", "html", "data", "rows", "seed", "output_dir", "batch_size", "device"],
    "reproduce": ["output_dir", "seeds", "arms", "jobs", "data", "format", "seed", "head_blocks"],
}  # fmt: skip
TEXTS = [
    "", " ", "nan", "inf", "-inf", "-1", "0", "1e999", "99999999999999999999", "1.5", "x", "true", "null", "[",
    "{a: 1}", "[1, 2]", "nowhere", "data", "data/sts-dev.csv", "/dev/null/x", "n" * 300, "a/" * 300,
    "caf\u00e9", "\x07", "\x1b[2J", "a\nb", "\u202e", "\U0001f600", "-", "--", "---", "=", "sst=1", "sst=x", "sst=1=1",
    ",", "sst,", "sst,sst", "!!python/name:os.system", "%", "\udce9", "9" * 5000, "\u0661", "1_0", "0x10", "*a", "&a",
    "{" * 50, "demo", "minilm", "model", "config.json", "~", "$HOME", "*",
]  # fmt: skip


def trainer_keys() -> list[str]:
    import dataclasses

    from transformers import TrainingArguments

    return sorted(item.name for item in dataclasses.fields(TrainingArguments) if item.name not in COSTLY)


def flags_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    command = rng.choice(["train"] * 4 + ["evaluate", "predict", "predict", "explain", "reproduce"])
    files: dict[str, Change] = {}
    if command == "train":
        argv = [*TRAIN, "--tasks", "sst", *PLAIN]
    elif command == "evaluate":
        argv = [*EVALUATE, "--tasks", "sst"]
    elif command == "reproduce":
        files = {"plan.yaml": content(yaml.safe_dump(PLAN).encode())}
        argv = ["plan.yaml", "--output_dir", "out", *PLAIN, "--arms", "qa"]
    else:
        argv = ["model", "--device", "cpu", "--task", "sst", "ab cd"]
        argv += ["--steps", "2"] * (command == "explain")
    names = WORDS[command] + (trainer_keys() if command == "train" else [])
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind, at = rng.randrange(9), rng.randrange(len(argv) + 1)
        name = "--" + rng.choice(names)
        if kind < 5:
            argv += [name, rng.choice(TEXTS)]
        elif kind == 5:
            argv.insert(
                at, rng.choice([name, name + "=", name[:-1], name + "s", "-" + name, name.upper(), rng.choice(TEXTS)])
            )
        elif kind == 6 and at < len(argv):
            del argv[at]
        elif kind == 7 and at < len(argv):
            argv[at] = rng.choice(TEXTS)
        else:
            argv += rng.choice(
                [[name, rng.choice(TEXTS), name, rng.choice(TEXTS)], argv[-2:], [f"{name}={rng.choice(TEXTS)}"]]
            )
    return command, argv + (STEP if command in ("train", "reproduce") else []), files, b""


SIZES = [0, -1, 1, 3, 15, 17, 48, 10**6, 10**9, 10**20, 1.5, "16", None, [], {}, "x", True, 1e300]


def damage_folder(rng: random.Random, templates: Path, folder: str) -> dict[str, Change]:
    """Changes to a checkpoint or an encoder."""
    names = sorted(path.name for path in (templates / folder).iterdir())
    kind, name = rng.randrange(10), rng.choice(names)
    path = f"{folder}/{name}"
    if kind == 0:
        odd = [{"remove": True}, {"folder": True}, {"link": name}, {"link": "nowhere"}, {"text": ""}]
        return {path: rng.choice(odd)}
    if kind == 1:
        other = rng.choice([other for other in names if other != name])
        return {path: {"copy": f"{folder}/{other}"}}
    if kind < 4 or name.endswith(".safetensors"):
        edits = edit_bytes(rng, (templates / path).stat().st_size)
        return {path: {"edits": edits}}
    path = f"{folder}/{rng.choice(['config.json', 'config.json', 'tokenizer.json', 'tokenizer_config.json'])}"
    return {path: content(damage_json(rng, (templates / path).read_bytes(), [*VALUES, *SIZES, *SIZES]))}


def checkpoint_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    files, kind = damage_folder(rng, templates, "model"), rng.randrange(5)
    if kind == 0:
        return "evaluate", EVALUATE, files, b""
    if kind == 1:
        return "explain", ["model", "--device", "cpu", "--task", "sts", "ab", "cd", "--steps", "2"], files, b""
    return "predict", ["model", "--device", "cpu", "--task", rng.choice(["sts", "quora"]), "ab cd", "ef"], files, b""


def encoder_case(rng: random.Random, templates: Path) -> tuple[str, list[str], dict[str, Change], bytes]:
    return "train", [*TRAIN, "--tasks", "sst", *PLAIN, *STEP], damage_folder(rng, templates, "encoder"), b""


KINDS: dict[str, tuple[int, Callable[..., tuple[str, list[str], dict[str, Change], bytes]]]] = {
    "rows in a folder": (20, rows_case),
    "rows of one's own": (12, own_rows_case),
    "standard input": (5, stdin_case),
    "tasks": (12, tasks_case),
    "recipe": (12, recipe_case),
    "plan": (6, plan_case),
    "flags": (15, flags_case),
    "checkpoint": (12, checkpoint_case),
    "encoder": (6, encoder_case),
}


def case(seed: int, templates: Path) -> Case:
    """The malformed input of a seed; `templates` holds `data`, `model` and `encoder`."""
    rng = random.Random(seed * 2 + 1)
    kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    command, argv, files, stdin = KINDS[kind][1](rng, templates)
    return Case(str(seed), kind, command, list(argv), files, base64.b64encode(stdin).decode())
