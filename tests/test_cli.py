"""The commands as a person types them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from qabert.cli import evaluate_main, predict_main, train_main
from qabert.tasks import PAPER_TASKS, QUORA, SST

ROOT = Path(__file__).parents[1]
CPU = ["--device", "cpu"]


def stop_of(main, argv, capsys) -> str:
    """The message of a command that has to fail on its input."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err


def answers_of(argv, capsys) -> list[dict]:
    predict_main([*argv, *CPU])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def feed(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.fixture(scope="module")
def of_one_task(tmp_path_factory, save_checkpoint):
    return save_checkpoint(tmp_path_factory.mktemp("one"), tasks=[QUORA])


def script(name: str, *argv: str, **keys) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, f"scripts/{name}.py", *argv], cwd=ROOT, env=env, capture_output=True, timeout=200, **keys
    )


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv", [["--task", "sst", "ab cd"], ["ab cd", "--task", "sst"], ["--batch_size", "1", "ab cd", "--task=sst"]]
)
def test_a_sentence_before_or_after_the_flags(trained, capsys, argv):
    (answer,) = answers_of([trained, *argv], capsys)
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert tuple(answer["probabilities"]) == SST.labels
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "argv", [["ab", "cd", "--task", "sts"], ["--task", "sts", "ab", "cd"], ["ab", "--task", "sts", "cd"]]
)
def test_a_pair_before_around_and_after_the_flags(trained, capsys, argv):
    (answer,) = answers_of([trained, *argv], capsys)
    assert list(answer) == ["value"]
    assert 0 <= answer["value"] <= 5


def test_a_sentence_that_starts_with_a_dash(trained, capsys):
    predict_main([trained, "--task", "sst", *CPU, "--", "-ab cd"])
    assert json.loads(capsys.readouterr().out)["label"] in SST.labels


def test_a_model_of_one_task_needs_no_task(of_one_task, capsys):
    (answer,) = answers_of([of_one_task, "ab", "cd"], capsys)
    assert answer["label"] in QUORA.labels
    assert answers_of([of_one_task, "--task", "quora", "ab", "cd"], capsys) == [answer]


def test_what_the_command_line_lacks_is_named(trained, of_one_task, capsys):
    assert "several tasks; name one with --task: sst, sts, quora" in stop_of(predict_main, [trained, "ab"], capsys)
    assert "'sts' takes 2 sentence(s)" in stop_of(predict_main, [trained, "--task", "sts", "ab"], capsys)
    assert "'sst' takes 1 sentence(s)" in stop_of(predict_main, [trained, "--task", "sst", "ab", "cd"], capsys)
    assert "give one of" in stop_of(predict_main, [trained, "--task", "sst"], capsys)
    assert "got ['file', 'sentences']" in stop_of(predict_main, [trained, "ab", "--file", "x"], capsys)
    assert "a sentence is empty" in stop_of(predict_main, [of_one_task, "ab", "  "], capsys)
    assert "did you mean 'quora'?" in stop_of(predict_main, [of_one_task, "--task", "qoura", "ab", "cd"], capsys)


def test_a_table_in_and_a_table_out(trained, tmp_path, capsys):
    texts = ['ab, "cd"', "ef\ngh", "emoji ☃ 👍", "עברית", "ab"]
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "sentence"], *([n, text] for n, text in enumerate(texts))])
    out = tmp_path / "new" / "out.csv"
    predict_main([trained, "--task", "sst", "--file", str(tmp_path / "in.csv"), "--output", str(out), *CPU])
    assert f"5 answers are in {out}" in capsys.readouterr().out
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text_a", "label", *(f"p({label})" for label in SST.labels)]
    assert [row["text_a"] for row in rows] == texts
    for row, text in zip(rows, texts, strict=True):
        shares = [float(row[f"p({label})"]) for label in SST.labels]
        assert row["label"] == SST.labels[shares.index(max(shares))]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        (alone,) = answers_of([trained, "--task", "sst", text], capsys)
        assert list(alone["probabilities"].values()) == pytest.approx(shares, abs=2e-4)


@pytest.mark.parametrize("name", ["rows.tsv", "rows.jsonl", "rows.txt", "rows", "-"])
def test_every_kind_of_file_gives_a_line_a_row_in_order(trained, tmp_path, capsys, monkeypatch, name):
    rows = [("ab cd", "ef"), ("gh", "ij kl mn"), ("ab", "ab")]
    text = "\n".join("\t".join(row) for row in rows) + "\n"
    if name.endswith("tsv"):
        text = "sentence1\tsentence2\n" + text
    if name.endswith("jsonl"):
        text = "\n".join(json.dumps({"sentence1": a, "sentence2": b}) for a, b in rows)
    (tmp_path / name).write_text(text)
    feed(monkeypatch, text)
    place = "-" if name == "-" else str(tmp_path / name)
    answers = answers_of([trained, "--task", "sts", "--file", place], capsys)
    assert answers == [pytest.approx(answers_of([trained, "--task", "sts", *row], capsys)[0], abs=2e-4) for row in rows]


def test_predict_as_a_script_in_a_pipe(trained):
    done = script("predict", trained, "--task", "sst", "--file", "-", *CPU, input="ab cd\nיופי ☃\n".encode())
    assert done.returncode == 0, done.stderr.decode()
    assert [json.loads(line)["label"] in SST.labels for line in done.stdout.decode().splitlines()] == [True, True]
    assert done.stderr == b""


def test_a_reader_that_goes_away_is_no_error(trained):
    read, write = os.pipe()
    os.close(read)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "scripts/predict.py", trained, "--task", "sst", "--file", "-", *CPU]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, input=b"ab\n", stdout=write, stderr=subprocess.PIPE, timeout=200
        )
    finally:
        os.close(write)
    assert done.returncode == 141
    assert b"Error" not in done.stderr and b"Exception" not in done.stderr


# --- evaluate --------------------------------------------------------------------------------------------------------


def independent_scores(path: Path) -> dict[str, float]:
    """Scores of a predictions file, by libraries alone."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels, predictions = [row["label"] for row in rows], [row["prediction"] for row in rows]
    if "p(paraphrase)" in rows[0]:
        return {
            "accuracy": accuracy_score(labels, predictions),
            "f1": f1_score(labels, predictions, pos_label="paraphrase"),
        }
    if len(rows[0]) > 3:
        return {
            "accuracy": accuracy_score(labels, predictions),
            "macro_f1": f1_score(labels, predictions, average="macro"),
        }
    true, predicted = [float(label) for label in labels], [float(prediction) for prediction in predictions]
    return {
        "pearson": stats.pearsonr(true, predicted).statistic,
        "spearman": stats.spearmanr(true, predicted).statistic,
    }


def test_evaluate_as_a_script_agrees_with_scores_computed_from_its_predictions(trained, course_folder, tmp_path):
    out = tmp_path / "out"
    # From the root, with scripts/ first in sys.path: `import evaluate` has to find the library.
    done = script("evaluate", trained, "--data", str(course_folder), "--output_dir", str(out), *CPU)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads((out / "metrics.json").read_text())
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == [
        "metrics.json", "predictions", *(f"predictions/{name}-dev.csv" for name in sorted(PAPER_TASKS))
    ]  # fmt: skip
    assert result["split"] == "dev"
    for name, task in PAPER_TASKS.items():
        scores = independent_scores(out / "predictions" / f"{name}-dev.csv")
        assert result["scores"][name] == pytest.approx(scores, abs=0.02 if "spearman" in scores else 1e-9), name
        for metric in task.metrics:
            assert f"{result['scores'][name][metric]:.3f}" in done.stdout.decode()
    firsts = [result["scores"][name][task.score] for name, task in PAPER_TASKS.items()]
    assert result["score"] == pytest.approx(sum(firsts) / 3)


def test_some_tasks_and_another_split(trained, course_folder, tmp_path, capsys):
    folder = tmp_path / "only"
    folder.mkdir()
    shutil.copy(course_folder / "quora-train.csv", folder)
    argv = ["--data", str(folder), "--tasks", "quora", "--split", "train", "--output_dir", str(tmp_path / "out")]
    evaluate_main([trained, *argv, *CPU])
    out = capsys.readouterr().out
    assert "(train)" in out and "quora" in out and "sst" not in out
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (result["split"], list(result["scores"])) == ("train", ["quora"])
    assert [path.name for path in (tmp_path / "out" / "predictions").iterdir()] == ["quora-train.csv"]


def test_tasks_from_yaml_say_where_their_files_are(trained, course_folder, tmp_path, capsys):
    shutil.copy(course_folder / "sts-dev.csv", tmp_path / "mine.csv")
    declared = {"tasks": {"sts": {"files": {"dev": "mine.csv"}}}}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(declared))
    evaluate_main([trained, "--data", str(tmp_path), "--tasks", str(tmp_path / "tasks.yaml"), *CPU])
    from_yaml = capsys.readouterr().out
    evaluate_main([trained, "--data", str(course_folder), "--tasks", "sts", *CPU])
    assert capsys.readouterr().out == from_yaml


def test_broken_rows_are_listed_and_strict_stops(trained, tmp_path, capsys):
    lines = ["id\tsentence\tsentiment", *(f"{n}\tab cd\t{n % 5}" for n in range(150)), "x\tab\t7"]
    (tmp_path / "ids-sst-dev.csv").write_text("\n".join(lines))
    argv = [trained, "--data", str(tmp_path), "--tasks", "sst", *CPU]
    evaluate_main(argv)
    captured = capsys.readouterr()
    assert "sst: dropped " in captured.err
    assert "ids-sst-dev.csv, line 152, column 'sentiment': label '7' is none of very negative" in captured.err
    assert "accuracy" in captured.out
    assert "line 152" in stop_of(evaluate_main, [*argv, "--strict"], capsys)


def test_evaluate_on_the_demo(trained, capsys):
    evaluate_main([trained, "--tasks", "sst", "--data", "demo", *CPU])
    assert "accuracy" in capsys.readouterr().out


# --- train -----------------------------------------------------------------------------------------------------------

OWN = {
    "mood": """
tasks:
  mood:
    problem: classification
    question: ab cd?
    labels: ["good, very", bad, "so-so"]
    columns: {text_a: text, label: mood}
    files: {train: train.csv, dev: dev.csv}
""",
    "heat": """
tasks:
  heat:
    problem: regression
    question: ab cd?
    range: [-10, 110]
    columns: {text_a: text, text_b: other, label: degrees}
    context: "{text_b} ef {text_a}"
    files: {train: train.csv, dev: dev.csv}
""",
    "spam": """
tasks:
  spam:
    problem: binary
    question: ab cd?
    labels: ["no", "yes"]
    columns: {text_a: text, label: spam}
    files: {train: train.csv, dev: dev.csv}
""",
}
LABELS = {
    "mood": ("mood", lambda rng: rng.choice(["good, very", "bad", "so-so", "1"])),
    "heat": ("degrees", lambda rng: f"{rng.uniform(-10, 110):.1f}"),
    "spam": ("spam", lambda rng: rng.choice(["no", "yes"])),
}


def write_own(folder: Path, name: str) -> Path:
    rng = random.Random(0)
    column, draw = LABELS[name]
    for split, count in (("train", 24), ("dev", 12)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([column, "text", "other"])
            words = ["ab", "cd", "ef,", '"gh"', "☃"]
            writer.writerows(
                [draw(rng), " ".join(rng.choices(words, k=4)), " ".join(rng.choices(words, k=3))] for _ in range(count)
            )
    path = folder / "tasks.yaml"
    path.write_text(OWN[name], encoding="utf-8")
    return path


def train_flags(encoder: str, out: Path) -> list[str]:
    flags = {"encoder": encoder, "max_length": 64, "output_dir": out, "num_train_epochs": 1, "head_blocks": 1}
    flags |= {"use_cpu": "true", "report_to": "none", "disable_tqdm": "true", "per_device_train_batch_size": 8}
    return [word for key, value in flags.items() for word in (f"--{key}", str(value))]


@pytest.mark.parametrize("name", OWN)
def test_an_own_task_in_ten_lines_of_yaml(name, tmp_path, encoder_path, capsys):
    tasks = write_own(tmp_path, name)
    out = tmp_path / "run"
    train_main(["--tasks", str(tasks), "--data", str(tmp_path), *train_flags(encoder_path, out)])
    assert f"model, metrics.json and predictions/ are in {out}" in capsys.readouterr().out
    result = json.loads((out / "metrics.json").read_text())
    assert result["steps"] == 3
    assert all(map(math.isfinite, result["scores"][name].values()))
    with (out / "predictions" / f"{name}-dev.csv").open(newline="", encoding="utf-8") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 12

    pair = ["cd"] if name == "heat" else []
    (answer,) = answers_of([str(out), "ab ☃", *pair], capsys)
    if name == "heat":
        assert -10 <= answer["value"] <= 110
        # An untrained head answers the middle of the range, give or take: 50, and not 0.
        assert all(20 < float(row["prediction"]) < 80 for row in predictions)
        assert all(-10 <= float(row["label"]) <= 110 for row in predictions)
    else:
        labels = ["no", "yes"] if name == "spam" else ["good, very", "bad", "so-so"]
        assert list(answer["probabilities"]) == labels
        assert {row["label"] for row in predictions} | {row["prediction"] for row in predictions} <= set(labels)

    evaluate_main([str(out), "--data", str(tmp_path), "--tasks", str(tasks), "--output_dir", str(tmp_path / "e"), *CPU])
    again = json.loads((tmp_path / "e" / "metrics.json").read_text())["scores"][name]
    assert again == pytest.approx({key: result["scores"][name][key] for key in again}, abs=1e-5)


def test_a_run_is_deleted_only_by_one_that_can_start(tmp_path, encoder_path, capsys):
    tasks, out = write_own(tmp_path, "spam"), tmp_path / "run"
    words = ["--tasks", str(tasks), *train_flags(encoder_path, out), "--overwrite"]
    train_main(words)
    (out / "old").write_text("")
    assert "max_length 999" in stop_of(train_main, [*words, "--max_length", "999"], capsys)
    (tmp_path / "dev.csv").rename(tmp_path / "away.csv")
    assert "dev.csv: no such file" in stop_of(train_main, words, capsys)
    (tmp_path / "away.csv").rename(tmp_path / "dev.csv")
    assert (out / "old").is_file() and (out / "metrics.json").is_file()
    train_main(words)
    assert not (out / "old").exists()
    assert (out / "arguments.yaml").is_file() and (out / "metrics.json").is_file()


def test_train_as_a_script(tmp_path, encoder_path, course_folder):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("format: joint\ntasks: sst,quora\nexamples_per_epoch: {quora: 16}\nscore_untrained: true\n")
    out = tmp_path / "run"
    done = script("train", str(recipe), "--data", str(course_folder), *train_flags(encoder_path, out))
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    heads = next(line for line in text.splitlines() if line.startswith("task") and "trained" in line)
    assert heads.split()[-3:] == ["majority", "untrained", "trained"]
    result = json.loads((out / "metrics.json").read_text())
    assert result["steps"] == 48 // 8 + 16 // 8
    assert {path.name for path in out.iterdir()} >= {
        "model.safetensors",
        "config.json",
        "arguments.yaml",
        "predictions",
    }
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("main", [evaluate_main, predict_main, train_main])
def test_help_ends_well(main, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_ctrl_c_is_no_traceback(trained, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("qabert.model_config.read_config", interrupt)
    with pytest.raises(SystemExit) as stop:
        predict_main([trained, "ab"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "demo", "--output", "x.csv"], "--output goes with sentences and --file"),
        (["--file", "x.csv", "--output_dir", "x"], "--output_dir goes with --data"),
    ],
)
def test_predict_ignores_no_flag(trained, flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        predict_main([str(trained), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


# --- python -m qabert ------------------------------------------------------------------------------------------------


def test_commands_run_without_a_scripts_path(trained):
    def run(*argv: str) -> subprocess.CompletedProcess:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, "-m", "qabert", *argv], env=env, capture_output=True, timeout=200)

    done = run("predict", trained, "--task", "sst", "ab cd", *CPU)
    assert done.returncode == 0 and "probabilities" in json.loads(done.stdout)
    assert run("--help").returncode == 0
    wrong = run("trian")
    assert wrong.returncode == 2 and b"unknown command" in wrong.stderr and b"usage: qabert COMMAND" in wrong.stderr
    assert b"unknown key 'learnig_rate'" in run("train", "--learnig_rate", "1").stderr


def test_a_command_called_from_a_program_leaves_its_name_alone(capsys):
    from qabert.cli import main

    before = list(sys.argv)
    with pytest.raises(SystemExit):
        main(["predict"])
    assert "qabert predict: error:" in capsys.readouterr().err
    assert sys.argv == before
