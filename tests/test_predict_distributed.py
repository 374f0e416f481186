"""Two real processes answer a file as one does, to the last bit; where one fails, there is no output and no hang."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from qabert import inference
from qabert.cli import evaluate_main, explain_main, predict_main
from qabert.errors import RunError
from qabert.processes import ALONE, launched

ROOT = Path(__file__).parents[1]
# Small chunks, so that few rows make many rounds.  Every argument is a command line; a launch takes seconds.
WORKER = """
import os, shlex, signal, sys
from qabert import inference
from qabert.cli import evaluate_main, predict_main
inference.CHUNK = 16
fault, *lines = sys.argv[1:]
if fault != "none":
    calls, real = [], inference.Predictor._answer_chunk
    def broken(self, *args, **kwargs):
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) == 2:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the disk is on fire")
        return real(self, *args, **kwargs)
    inference.Predictor._answer_chunk = broken
for line in lines:
    command, *words = shlex.split(line)
    {"predict": predict_main, "evaluate": evaluate_main}[command](words)
"""


@pytest.fixture(scope="module")
def launch(tmp_path_factory, torchrun):
    worker = tmp_path_factory.mktemp("worker") / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")

    def run(*lines, fault="none"):
        return torchrun(worker, fault, *lines, cwd=worker.parent, timeout=90)

    return run


def rows_file(path, count):
    rng = random.Random(count)
    texts = [" ".join(rng.choices(["ab", "cd", "film", "?", "é"], k=rng.randint(1, 30))) for _ in range(2 * count)]
    path.write_text("".join(f"{a}\t{b}\n" for a, b in zip(texts[::2], texts[1::2], strict=True)), encoding="utf-8")
    return path


def test_answers_and_scores_are_those_of_one_process(launch, trained, course_folder, tmp_path, monkeypatch, capsys):
    # Four chunks of 16 and one of 13 (the second process has none in the last round), and fewer rows than processes.
    many, one = rows_file(tmp_path / "many.txt", 77), rows_file(tmp_path / "one.txt", 1)

    def lines(name):
        start, out = f"{trained} --device cpu", tmp_path / name
        return (
            f"predict {start} --task sts --file {many} --batch_size 5 --output {out / 'a.csv'}",
            f"predict {start} --task sts --file {one}",
            f"predict {start} --task quora --data {course_folder} --output_dir {out / 'sub'}",
            f"evaluate {start} --data {course_folder} --output_dir {out / 'scores'}",
        )

    done = launch(*lines("two"))
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(inference, "CHUNK", 16)
    for line in lines("one"):
        command, *words = line.split()
        {"predict": predict_main, "evaluate": evaluate_main}[command](words)
    assert done.stdout == capsys.readouterr().out.replace(f"{tmp_path}/one/", f"{tmp_path}/two/")
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    }
    assert len(files["one"]) == 1 + 2 + 4
    assert files["two"] == files["one"]


@pytest.mark.parametrize("fault", ["raises", pytest.param("killed", marks=pytest.mark.slow)])
def test_a_process_that_fails_leaves_no_output_and_keeps_nobody_waiting(launch, trained, tmp_path, fault):
    (tmp_path / "out").mkdir()
    rows, output = rows_file(tmp_path / "rows.txt", 77), tmp_path / "out" / "a.csv"
    start = time.monotonic()
    done = launch(f"predict {trained} --device cpu --task sts --file {rows} --output {output}", fault=fault)
    assert done.returncode != 0
    assert time.monotonic() - start < 60
    assert list((tmp_path / "out").iterdir()) == []
    if fault == "raises":
        assert "error: process 1 failed: the disk is on fire" in done.stderr


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (predict_main, ["--task", "sst", "--file", "-"], "can't share standard input"),
        (explain_main, ["--task", "sst", "ab"], "without torchrun"),
    ],
)
def test_what_several_processes_cannot_do(main, words, message, trained, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        main([trained, *words])
    assert message in capsys.readouterr().err


def test_without_a_launcher_one_process_answers_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() is ALONE
    assert ALONE.gather(lambda: 3) == [3]


def test_processes_that_cannot_find_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)  # no launcher
    with pytest.raises(RunError, match="2 processes can't be connected"):
        launched()
