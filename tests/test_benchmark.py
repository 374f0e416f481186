"""The same work for every contender, measured the same way, and a table that says who failed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time

import pytest

from qabert.benchmark.command import parse, run, run_rounds
from qabert.benchmark.contenders import CONTENDERS, chosen
from qabert.benchmark.meters import peak_memory
from qabert.benchmark.rows import prepare, shares
from qabert.benchmark.tables import markdown, speed_figure, summarise
from qabert.cli import run_command
from qabert.errors import InputError

ROWS, BATCH = 56, 8  # 7 batches: 3 of sst, 2 of sts, 2 of quora
NUMBERS = ["--rows", str(ROWS), "--batch_size", str(BATCH), "--predict_rows", "30"]


@pytest.fixture(scope="module")
def told(tmp_path_factory, course_folder, encoder_path):
    """What the contenders are told."""
    folder = tmp_path_factory.mktemp("benchmark")
    settings = parse(["--data", str(course_folder), "--encoder", encoder_path, "--output_dir", str(folder), *NUMBERS])
    return settings | prepare(settings, folder / "work")


@pytest.fixture(scope="module")
def result(tmp_path_factory, course_folder, encoder_path):
    """A whole run of the fastest contenders."""
    folder = tmp_path_factory.mktemp("run")
    where = ["--data", str(course_folder), "--encoder", encoder_path, "--output_dir", str(folder)]
    more = ["--rounds", "1", "--parts", "train,evaluate", "--contenders", "limit,qabert,tasknet", "--threads", "1"]
    return run([*where, *NUMBERS, *more]), folder


def here(told, contender, *parts):
    """What the contender's process would do, in this one."""
    from qabert.benchmark.worker import work

    return work(told | {"contender": contender, "parts": list(parts), "started": time.time()})["parts"]


def test_rows_fill_whole_batches():
    assert shares(ROWS, BATCH) == {"sst": 24, "sts": 16, "quora": 16}
    assert shares(1, 32) == {"sst": 32, "sts": 32, "quora": 32}


def test_run_is_whole(result):
    found, folder = result
    assert sorted(path.name for path in folder.iterdir()) == [
        f"benchmark.{kind}" for kind in ("json", "md", "png", "svg")
    ]
    assert json.loads((folder / "benchmark.json").read_text())["summary"] == found["summary"]
    table = (folder / "benchmark.md").read_text()
    for name in ("limit", "qabert"):
        parts = found["rounds"][0][name]["parts"]
        assert (parts["train"]["rows"], parts["train"]["steps"]) == (ROWS, ROWS // BATCH)
        assert parts["evaluate"]["rows"] == found["settings"]["dev_rows"]
        assert parts["train"]["train_loss"] > 0 and parts["train"]["threads"] == 1
        assert 0 < parts["train"]["seconds"] < parts["train"]["seconds_to_first_step"]
        assert table.count(f"\n| {name} | ") == 2
    assert set(found["rounds"][0]["qabert"]["parts"]["train"]["last_losses"]) == {"sst", "sts", "quora"}
    assert found["summary"]["train"]["limit"]["of_limit"]["median"] == 1


@pytest.mark.skipif(importlib.util.find_spec("tasknet") is not None, reason="tasknet is installed")
def test_what_is_not_installed_is_listed(result):
    found, folder = result
    assert found["summary"]["train"]["tasknet"] == {"error": "not installed: tasknet"}
    assert "| tasknet | not installed: tasknet |" in (folder / "benchmark.md").read_text()


def test_every_contender_sees_the_same_tokens(told, result):
    limit = result[0]["rounds"][0]["limit"]["parts"]
    names = ["trainer-128", "trainer-dynamic", "trainer-grouped"]
    if importlib.util.find_spec("sentence_transformers"):
        names.append("sentence-transformers")
    padding = {}
    for name in names:
        parts = here(told, name, "train", "evaluate")
        for part in ("train", "evaluate"):
            assert parts[part]["rows"] == limit[part]["rows"]
            assert parts[part]["useful_tokens"] == limit[part]["useful_tokens"], (name, part)
        assert parts["train"]["steps"] == limit["train"]["steps"]
        padding[name] = parts["train"]["padding"]
    useful = limit["train"]["useful_tokens"]
    assert padding["trainer-128"] == pytest.approx(1 - useful / (ROWS * 128))
    assert limit["train"]["padding"] < padding["trainer-dynamic"] < padding["trainer-128"]


def test_predictions_are_of_the_same_tokens(told):
    limit, own, pipeline = (here(told, name, "predict")["predict"] for name in ("limit", "qabert", "pipeline"))
    assert limit["rows"] == own["rows"] == pipeline["rows"] == 30
    assert limit["useful_tokens"] == own["useful_tokens"] == pipeline["useful_tokens"]
    assert here(told, "pipeline-1", "predict")["predict"]["rows"] == 3


def test_wrong_number_of_steps_or_rows_is_an_error(told):
    with pytest.raises(RuntimeError, match="7 steps over 56 rows; asked were 7 over 55"):
        here(told | {"train_rows": 55}, "limit", "train")
    with pytest.raises(RuntimeError, match=f"scored {told['dev_rows']} rows; asked were 5"):
        here(told | {"dev_rows": 5}, "limit", "train", "evaluate")


def test_who_fails_is_told_and_not_asked_again(told, tmp_path):
    names = ["limit", "trainer-128"]  # there are no rows in this folder
    rounds = run_rounds(told | {"contenders": names, "parts": ["train"], "rounds": 2, "work": str(tmp_path)}, tmp_path)
    assert [list(one) for one in rounds] == [names, []]
    assert "FileNotFoundError" in rounds[0]["limit"]["errors"]["train"]
    summary = summarise(rounds)
    assert "FileNotFoundError" in summary["train"]["limit"]["error"]
    assert "| limit | FileNotFoundError" in markdown(summary, "", [])
    speed_figure(summary, 2)


def test_order_is_reversed_in_every_second_round(told, tmp_path, monkeypatch):
    asked = []

    def run_worker(spec, work):
        asked.append(spec["contender"])
        part = {"examples_per_second": 1.0}
        return {
            "parts": dict.fromkeys(spec["parts"], part),
            **dict.fromkeys(("peak_memory", "gpu_peak_memory", "device", "threads")),
        }

    monkeypatch.setattr("qabert.benchmark.command.run_worker", run_worker)
    run_rounds(told | {"contenders": ["limit", "qabert"], "parts": ["train"], "rounds": 3}, tmp_path)
    assert asked == ["limit", "qabert", "qabert", "limit", "limit", "qabert"]


def test_ratios_are_taken_round_by_round():
    speeds = [{"limit": 100, "qabert": 90}, {"limit": 50, "qabert": 40}, {"limit": 200, "qabert": 190}]
    rounds = [
        {name: {"parts": {"train": {"examples_per_second": speed}}, "errors": {}} for name, speed in one.items()}
        for one in speeds
    ]
    row = summarise(rounds)["train"]["qabert"]
    assert row["examples_per_second"] == {"median": 90, "low": 40, "high": 190}
    assert row["of_limit"] == {"median": 0.9, "low": 0.8, "high": 0.95}


def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    held = bytearray(b"x") * 2**29
    code = "from qabert.benchmark.meters import peak_memory\nprint(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < peak_memory() - 200, len(held)


def test_bad_flags_are_told_before_work(tmp_path, capsys):
    base = ["--data", "x", "--output_dir", str(tmp_path)]
    for more, message in (
        (["--contenders", "limmit"], "did you mean 'limit'"),
        (["--parts", "training"], "unknown part 'training'"),
        (["--contenders", "limit,limit"], "named twice"),
        (["--contenders", "pipeline", "--parts", "train"], "none of the contenders"),
    ):
        with pytest.raises(InputError, match=message):
            parse([*base, *more])
    with pytest.raises(SystemExit) as stopped:
        run_command(run, [*base, "--encoder", "minilm"])
    assert stopped.value.code == 2 and "error: " in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_too_few_rows_is_an_error(told, tmp_path):
    with pytest.raises(InputError, match="lower --rows or --batch_size"):
        prepare(told | {"rows": 3000, "encoder": told["encoder"]}, tmp_path)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom qabert.cli import run\ntry: run('benchmark', ['--help'])\n"
        "except SystemExit: pass\nassert not {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("--rounds", *CONTENDERS))


def test_without_names_all_able_contenders_run():
    assert chosen([], ["predict"])[0] == [name for name, one in CONTENDERS.items() if "predict" in one.parts]
