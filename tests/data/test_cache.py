"""Rows and features that are kept between runs: the same as those read anew, never stale, never half there."""

import csv
import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import datasets
import pytest

from qabert.data import cache, sources
from qabert.data.prompts import FORMATS, PromptEncoder, joint
from qabert.data.sources import load_data, load_task
from qabert.errors import InputError
from qabert.tasks import PAPER_TASKS, SST, STS
from qabert.training.recipes import parse

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where entries are; files of any size are cached."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(cache, "SMALLEST", 0)
    monkeypatch.setattr(cache, "_said", set())
    return tmp_path / "cache" / "qabert"


@pytest.fixture
def data(tmp_path, course_folder):
    """A folder of the course's files; one row in 200 of SST's train split is broken."""
    folder = tmp_path / "data"
    folder.mkdir()
    for file in course_folder.glob("*.csv"):
        (folder / file.name).write_bytes(file.read_bytes())
    lines = ["\tid\tsentence\tsentiment", *(f"{n}\t\tab cd ef {n % 7}\t{n % 5}" for n in range(200))]
    lines[7] = "6\t\tab\tno label \\ud800"
    (folder / SST.files["train"]).write_text("\n".join(lines), encoding="utf-8")
    return folder


def entries(root):
    return sorted(place.name for place in root.iterdir() if place.is_dir())


def build_two(path):
    with datasets.arrow_writer.ArrowWriter(path=path) as writer:
        writer.write_batch({"x": [1, 2]})
        writer.finalize()
    return {"say": "ä"}


def refuse(*_):
    raise AssertionError("read or encoded anew")


def plain(loaded):
    return {
        name: (one.dropped, one.read, {split: (rows.features, rows.to_list()) for split, rows in one.splits.items()})
        for name, one in loaded.items()
    }


def test_rows_from_the_cache_are_those_that_were_read(data, root, monkeypatch):
    anew = load_data(PAPER_TASKS, data)
    assert not root.exists()
    first = load_data(PAPER_TASKS, data, cache=True)
    assert len(entries(root)) == 6
    monkeypatch.setattr(sources, "clean_rows", refuse)
    again = load_data(PAPER_TASKS, data, cache=True)
    assert plain(anew) == plain(first) == plain(again)
    (dropped,) = again["sst"].dropped["train"]
    assert (dropped.file, dropped.line, dropped.column) == (str(data / SST.files["train"]), 8, "sentiment")
    (file,) = again["sst"].splits["train"].cache_files
    assert Path(file["filename"]).parent.parent == root  # memory-mapped


def test_features_from_the_cache_are_those_that_were_made(data, root, tokenizer):
    encoder = PromptEncoder("qa", tokenizer, SST, 32)
    loaded = load_task(SST, data, cache=True)
    rows, key = loaded.splits["train"], loaded.keys["train"]
    anew = cache.encode(rows, encoder, None, "sst")
    assert len(entries(root)) == 2
    assert all(sorted(os.listdir(root / name)) == ["data.arrow", "entry.json"] for name in entries(root))
    first = cache.encode(rows, encoder, key, "sst")
    assert len(entries(root)) == 3
    encoder.__dict__["_texts"] = refuse
    again = cache.encode(rows, encoder, key, "sst")
    assert anew.features == first.features == again.features
    assert anew.to_list() == first.to_list() == again.to_list()
    assert again.cache_files
    assert not anew.cache_files


def test_strictness_is_asked_of_what_the_cache_holds_too(data):
    load_task(SST, data, cache=True)
    with pytest.raises(InputError, match=r"line 8, column 'sentiment'.*1 of 200 rows are broken, and strict is set"):
        load_task(SST, data, strict=True, cache=True)


def test_what_makes_another_key_of_rows(data, tmp_path):
    path = data / STS.files["dev"]

    def key(task=STS, split="dev", path=path, needs_label=True):
        return cache.rows_key(task, split, path, needs_label)

    first, state = key(), path.stat()
    elsewhere = tmp_path / "copy.csv"
    elsewhere.write_bytes(path.read_bytes())
    assert key() == key(path=elsewhere) == first
    keys = [first, key(split="train"), key(needs_label=False), key(path=elsewhere.rename(tmp_path / "copy.txt"))]
    changes = {
        "range": (0.0, 6.0), "columns": {**STS.columns, "id": "no"}, "question": "?", "context": "{text_b} {text_a}",
    }  # fmt: skip
    keys += [key(task=dataclasses.replace(STS, **{name: value})) for name, value in changes.items()]
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))  # neither size nor time tells
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    keys.append(key())
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_other_code_or_libraries_make_another_key(data, tmp_path, monkeypatch):
    def key():
        return cache.rows_key(SST, "train", data / SST.files["train"], True)

    shutil.copytree(ROOT / "qabert", tmp_path / "qabert", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "qabert" / "__init__.py").write_text("")

    def code():
        words = [sys.executable, "-c", "import qabert.data.cache as cache; print(cache._CODE_DIGEST)"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    keys = [key()]
    assert code() == cache._CODE_DIGEST
    for name in cache._CODE:
        with (tmp_path / "qabert" / name).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        monkeypatch.setattr(cache, "_CODE_DIGEST", code())
        keys.append(key())
    monkeypatch.setattr(cache, "_versions", lambda: ["another"])
    keys.append(key())
    assert len(set(keys)) == len(keys) == len(cache._CODE) + 2
    monkeypatch.setattr(cache, "_CODE_DIGEST", None)
    assert key() is None


def test_what_makes_another_key_of_features(tokenizer, encoder_path, tmp_path):
    from transformers import AutoTokenizer

    def key(input_format="qa", max_length=64, change=None, task=SST, rows="r"):
        loaded = AutoTokenizer.from_pretrained(encoder_path)
        if change:
            change(loaded)
        return cache._features_key(rows, PromptEncoder(input_format, loaded, task, max_length))

    first = key()
    tokenizer.save_pretrained(tmp_path / "moved")
    moved = PromptEncoder("qa", AutoTokenizer.from_pretrained(tmp_path / "moved"), SST, 64)
    moved.tokenizer(["ab " * 99] * 2, truncation=True, max_length=9)  # what was asked before makes no difference
    moved = PromptEncoder("qa", moved.tokenizer, SST, 64)
    assert key() == cache._features_key("r", moved) == first
    keys = [
        first, key("joint"), key(max_length=65), key(rows="s"), key(task=dataclasses.replace(SST, question="Why?")),
        key(change=lambda t: t.add_tokens(["neverseen"])),
        key(change=lambda t: setattr(t, "model_input_names", ["input_ids"])),
        key(change=lambda t: setattr(t, "split_special_tokens", True)),
        key(change=lambda t: setattr(t.backend_tokenizer.normalizer, "lowercase", False)),
    ]  # fmt: skip
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_what_has_no_content_to_make_a_key_of_is_not_cached(data, root, tokenizer, monkeypatch):
    from copy import deepcopy

    from tokenizers.pre_tokenizers import PreTokenizer

    class Words:
        def pre_tokenize(self, text):
            text.split(lambda number, piece: [piece])

    class Other(type(tokenizer)):
        pass

    class OtherEncoder(PromptEncoder):
        pass

    odd, other = deepcopy(tokenizer), deepcopy(tokenizer)
    odd.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(Words())
    other.__class__ = Other
    monkeypatch.setitem(FORMATS, "mine", lambda *texts: joint(*texts))
    encoders = [PromptEncoder("qa", one, SST, 64) for one in (odd, other)]
    encoders += [PromptEncoder("mine", tokenizer, SST, 64), OtherEncoder("qa", tokenizer, SST, 64)]
    loaded = load_task(SST, data, cache=True)
    for encoder in encoders:
        assert len(cache.encode(loaded.splits["dev"], encoder, loaded.keys["dev"], "sst")) == len(loaded.splits["dev"])
    assert len(entries(root)) == 2
    assert all(len(os.listdir(root / name)) == 2 for name in entries(root))


def test_small_files_the_demo_and_runs_that_want_none_have_no_cache(data, root, monkeypatch):
    load_task(SST, "demo", cache=True)
    datasets.disable_caching()
    try:
        load_task(SST, data, cache=True)
    finally:
        datasets.enable_caching()
    monkeypatch.setattr(cache, "SMALLEST", 10**6)
    assert not load_task(SST, data, cache=True).keys
    assert not root.exists()


def _overwrite(file, change):
    content = bytearray(file.read_bytes())
    file.write_bytes(change(content))


def _flip(content):
    two = content.rfind((2).to_bytes(8, "little"))  # the value of a row, which any reader takes; or any byte of text
    content[two if two >= 0 else len(content) // 2] ^= 1
    return content


@pytest.mark.parametrize("file", ["data.arrow", "entry.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "other"])
def test_a_damaged_entry_is_noticed_and_made_anew(root, file, damage):
    key, other = "a" * 64, "b" * 64
    cache.cached(other, lambda path: build_two(path) and None)
    cache.cached(key, build_two)
    place = root / key / file
    if damage == "gone":
        place.unlink()
    elif damage == "other" and file == "entry.json":
        place.write_bytes((root / other / file).read_bytes())
    else:
        changes = {"flip": _flip, "cut": lambda c: c[:-9], "empty": lambda c: b"", "other": lambda c: b"[1]" + c}
        _overwrite(place, changes[damage])
    made = []
    rows, facts = cache.cached(key, lambda path: made.append(1) or build_two(path))
    assert (rows["x"][:], facts, made) == ([1, 2], {"say": "ä"}, [1])
    assert cache.cached(key, refuse)[0]["x"][:] == [1, 2]
    assert entries(root) == [key, other]


def test_a_file_that_changes_while_it_is_read_is_not_cached(data, root, monkeypatch, capsys):
    path, reader = data / SST.files["dev"], sources.read_table

    def read(place, *columns):
        rows = list(reader(place, *columns))
        with place.open("a", encoding="utf-8") as file:
            file.write("9\tlate\tab\t1\n")
        return rows

    monkeypatch.setattr(sources, "read_table", read)
    load_task(SST, data, ["dev"], cache=True)
    monkeypatch.undo()
    monkeypatch.setattr(cache, "SMALLEST", 0)
    assert entries(root) == []
    assert capsys.readouterr().err.count(f"{path} was changed while it was read") == 1


@pytest.mark.parametrize("where", ["a file", "no name"])
def test_a_place_that_cannot_be_written_costs_one_line(data, tmp_path, monkeypatch, capsys, where):
    place = tmp_path / "place"
    place.write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", place if where == "a file" else tmp_path / ("x" * 300))
    loaded = load_data(PAPER_TASKS, data, cache=True)
    assert plain(loaded) == plain(load_data(PAPER_TASKS, data))
    captured = capsys.readouterr()
    assert captured.err.count("rows aren't cached") == captured.err.count("\n") == 1
    assert not captured.out


def _fork(work):
    """Run a function in another process; forked, as importing takes seconds."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_a_disk_that_is_full_costs_one_line(data, root, tmp_path):
    def work():
        sys.stderr = (tmp_path / "log").open("w", buffering=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        sys.exit(len(load_data(PAPER_TASKS, data, cache=True)["sst"].splits["train"]) != 199)

    process = _fork(work)
    process.join(60)
    assert process.exitcode == 0
    said = (tmp_path / "log").read_text()
    assert said.count("File too large") == said.count("\n") == 1
    assert entries(root) == []


def _slowly(log, seconds):
    def build(path):
        facts = build_two(path)
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(seconds)
        return facts

    rows, facts = cache.cached("c" * 64, build)
    sys.exit((rows["x"][:], facts) != ([1, 2], {"say": "ä"}))


def test_one_of_several_processes_makes_an_entry_and_the_others_wait(tmp_path):
    both = [_fork(partial(_slowly, tmp_path / "log", 2)) for _ in range(2)]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_killed_process_leaves_nothing_that_is_taken_for_an_entry(root, tmp_path):
    process = _fork(partial(_slowly, tmp_path / "log", 60))
    while not (tmp_path / "log").exists():
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    (left,) = entries(root)
    assert left.startswith("part-")
    assert cache.cached("c" * 64, build_two)[0]["x"][:] == [1, 2]  # the lock went with its process
    assert entries(root) == ["c" * 64, left]  # it could be another's that is at work
    for place in (*(root / left).iterdir(), root / left):
        os.utime(place, (1, 1))
    cache.cached("d" * 64, build_two)
    assert entries(root) == ["c" * 64, "d" * 64]


def test_two_that_make_one_entry_where_locks_do_not_lock(root, monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr("filelock.FileLock", lambda *_, **__: nullcontext())
    inner = []

    def build(path):
        inner.append(cache.cached("e" * 64, build_two))
        return build_two(path) | {"say": "second"}

    outer = cache.cached("e" * 64, build)
    assert outer[0]["x"][:] == inner[0][0]["x"][:] == [1, 2]
    assert outer[1] == inner[0][1]  # the first one's, which others may read already
    assert entries(root) == ["e" * 64]


def test_an_error_of_the_rows_is_passed_on_and_leaves_nothing(data, root):
    path = data / SST.files["dev"]
    path.write_text("id\tsentence\n1\tab\n", encoding="utf-8")
    with pytest.raises(InputError, match="column 'sentiment' is missing"):
        load_task(SST, data, ["dev"], cache=True)
    assert entries(root) == []


def test_the_least_recently_used_entries_go(root, monkeypatch):
    keys = [letter * 64 for letter in "0123"]
    for age, key in zip((50, 40, 30, 0), keys, strict=True):
        cache.cached(key, build_two)
        for place in (*(root / key).iterdir(), root / key):
            os.utime(place, (time.time() - age * 3600,) * 2)
    (root / "notes.txt").write_text("not ours")
    cache.cached(keys[1], refuse)  # used: younger than its files
    monkeypatch.setattr(cache, "MOST", 1)
    cache.cached("4" * 64, build_two)
    assert entries(root) == [keys[1], keys[3], "4" * 64]  # of today, although there is too much
    assert (root / "notes.txt").exists()
    monkeypatch.setattr(cache, "KEPT", -1)
    monkeypatch.setattr(cache, "MOST", sum(file.stat().st_size for file in (root / keys[1]).iterdir()) + 10_000)
    cache.cached("5" * 64, build_two)
    assert "5" * 64 in entries(root)
    assert keys[3] not in entries(root)


TIMES = ("train_seconds", "train_examples_per_second")


def test_a_run_with_the_cache_prints_and_computes_what_one_without_does(
    data, root, tmp_path, encoder_path, capsys, monkeypatch
):
    from qabert.training import run

    def result(name, *more):
        words = (
            f"--data {data} --encoder {encoder_path} --format separate --max_length 64 --head_blocks 1 --use_cpu true "
            "--disable_tqdm true --per_device_train_batch_size 24 --num_train_epochs 1 --logging_steps 4 --output_dir"
        ).split()
        capsys.readouterr()
        run.train(parse([*words, str(tmp_path / "run"), "--overwrite", *more]))
        held = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
        for entry in (held, *held["history"]):
            for key in [key for key in entry if key in TIMES or key.endswith(("_runtime", "_per_second"))]:
                del entry[key]
        del held["arguments"]["cache"]
        with (tmp_path / "run" / "predictions" / "sts-dev.csv").open(newline="") as file:
            # What is logged is printed with its times; without them it is what `history` holds.
            out = [line for line in capsys.readouterr().out.splitlines() if "_runtime" not in line and line[:1] != "{"]
            return out, held, list(csv.reader(file))

    without = result("none", "--cache", "false")
    assert not root.exists()
    cold = result("cold")
    assert len(entries(root)) == 12
    monkeypatch.setattr(PromptEncoder, "__call__", refuse)
    monkeypatch.setattr(sources, "clean_rows", refuse)
    warm = result("warm")
    for anew, one, other in zip(without, cold, warm, strict=True):
        assert anew == one == other
    assert any(line.startswith("dropped from sst train: 1 row(s)") for line in without[0])
