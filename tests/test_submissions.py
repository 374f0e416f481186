"""A person's rows in, files of answers out; the course's submission files."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qabert.answers import write_submission
from qabert.cli import predict_main
from qabert.data.sources import load_task
from qabert.errors import InputError
from qabert.inference import Predictor
from qabert.submissions import file_rows, sentence_row, write_answers, write_submissions
from qabert.tasks import PAPER_TASKS, QUORA, SST, STS, Task

HARD = [
    'a comma, and a "quote"',
    "two\nlines",
    "semi;colon | bar\tand a tab",
    "emoji 👩‍👩‍👧 and ☃",
    "עברית and العربية",
    "'single' = +1 -1 @x",
    "next\u2028line and\x85line and\x0cpage",
    "e\u0301 against é",
]


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_pretrained(trained, "cpu")


def feed(monkeypatch, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_the_rows_of_a_command_line():
    assert sentence_row(["A film."], SST) == ("A film.", None)
    assert sentence_row(["One.", "Two."], STS) == ("One.", "Two.")


@pytest.mark.parametrize(
    ("sentences", "task", "message"),
    [
        (["a", "b"], SST, r"'sst' takes 1 sentence.*got 2"),
        (["a"], QUORA, r"'quora' takes 2 sentence.*got 1"),
        (["a", "b", "c"], QUORA, "got 3"),
        ([" \t"], SST, "empty"),
        (["a", ""], QUORA, "empty"),
        (["caf\udce9"], SST, "Unicode"),
    ],
)
def test_rows_that_a_command_line_cannot_mean(sentences, task, message):
    with pytest.raises(InputError, match=message):
        sentence_row(sentences, task)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.TSV"])
def test_rows_of_a_delimited_file(tmp_path, name):
    delimiter = "," if name.endswith("csv") else "\t"
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["extra", "sentence2", "sentence1"])
        writer.writerows([["x", text, f"first {text}"] for text in HARD])
    assert file_rows(str(tmp_path / name), STS) == [(f"first {text}", text) for text in HARD]


def test_rows_of_json_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"sentence": text, "n": 1}) for text in HARD), encoding="utf-8")
    assert file_rows(str(path), SST) == [(text, None) for text in HARD]


def test_rows_of_text_are_lines_and_only_line_ends_end_them(tmp_path):
    path = tmp_path / "rows.txt"
    texts = [text for text in HARD if "\n" not in text]
    for end in ("\n", "\r\n"):
        path.write_bytes(b"\xef\xbb\xbf" + end.join(texts).encode())
        assert file_rows(str(path), SST) == [(text, None) for text in texts]
        path.write_bytes((end.join(texts) + end).encode())
        assert file_rows(str(path), SST) == [(text, None) for text in texts]


def test_pairs_of_text_have_a_tab_between_them(monkeypatch):
    feed(monkeypatch, "a film\t a book \nc\td")
    assert file_rows("-", STS) == [("a film", "a book"), ("c", "d")]


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        ("good\n\nbad\n", SST, "-, line 2: expected a sentence"),
        ("a\tb\na b\n", STS, "-, line 2: expected two sentences with a tab between them, got 'a b'"),
        ("a\tb\tc\n", STS, "-, line 1: expected two sentences"),
        ("a\t \n", STS, "-, line 1: expected two sentences"),
        ("", SST, "-: no rows"),
        (b"good\nbad \xff\n", SST, "-, line 2: .*not UTF-8"),
    ],
)
def test_broken_lines_are_named_and_none_is_skipped(monkeypatch, text, task, message):
    feed(monkeypatch, text)
    with pytest.raises(InputError, match=message):
        file_rows("-", task)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "sentence,n\ngood,1\n\nbad,2,3\n", "rows.csv, line 4, column '#3': 3 fields"),
        ("rows.csv", 'sentence\ngood\n""\n" "\n', "rows.csv, line 3, column 'sentence': expected a sentence"),
        ("rows.csv", "text\ngood\n", "column 'sentence' is missing"),
        ("rows.csv", "sentence\n", "no rows"),
        ("rows.jsonl", '{"sentence": "good"}\n{"sentence": 3}\n', "line 2, column 'sentence'"),
        ("rows.jsonl", '{"sentence": "good"}\n{"sentence": null}\n', "line 2, column 'sentence'"),
        ("rows.jsonl", '{"sentence": "good"}\n{"other": ""}\n', "line 2, column 'sentence'"),
        ("rows.jsonl", '{"sentence": "\\ud800"}\n', "line 1, column 'sentence': .*Unicode"),
    ],
)
def test_broken_rows_of_tables_are_named_and_none_is_skipped(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        file_rows(str(tmp_path / name), SST)


def test_answers_survive_the_csv_round_trip(tmp_path, predictor):
    rows = [(text, None) for text in HARD]
    write_answers(predictor, SST, rows, tmp_path / "new" / "out.csv", 3)
    with (tmp_path / "new" / "out.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["text_a"] for row in read] == HARD
    for row, answer in zip(read, predictor.predict("sst", rows), strict=True):
        shares = {label: float(row[f"p({label})"]) for label in SST.labels}
        assert row["label"] == answer["label"] == max(shares, key=shares.__getitem__)
        assert shares == pytest.approx(answer["probabilities"], abs=2e-4)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)


def test_answers_of_a_regression_are_in_its_unit(tmp_path, predictor, capsys):
    rows = [(text, "ab") for text in HARD]
    write_answers(predictor, STS, rows, tmp_path / "out.csv", 64)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["text_a", "text_b", "value"]
    assert all(0 <= float(row["value"]) <= 5 for row in read)
    assert f"{len(HARD)} answers are in" in capsys.readouterr().out


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory, predictor, texts):
    folder = tmp_path_factory.getbasetemp()
    texts = [text.replace("\0", "").strip() or "x" for text in texts]
    write_answers(predictor, SST, [(text, None) for text in texts], folder / "any.csv", 64)
    with (folder / "any.csv").open(newline="", encoding="utf-8") as file:
        assert [row["text_a"] for row in csv.DictReader(file)] == texts


HEADS = {"sst": "Predicted_Sentiment", "sts": "Predicted_Similiary", "para": "Predicted_Is_Paraphrase"}


def test_submission_files_are_the_courses_to_the_space(trained, course_folder, tmp_path, capsys):
    predict_main([trained, "--data", str(course_folder), "--output_dir", str(tmp_path / "out"), "--device", "cpu"])
    printed = capsys.readouterr().out.split()
    names = [f"{name}-{split}-output.csv" for name in ("sst", "sts", "para") for split in ("dev", "test")]
    assert printed == [str(tmp_path / "out" / name) for name in names]
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == sorted(names)
    predictor = Predictor.from_pretrained(trained, "cpu")
    for task in PAPER_TASKS.values():
        for split in ("dev", "test"):
            text = (tmp_path / "out" / f"{task.output[0]}-{split}-output.csv").read_bytes().decode()
            head, *lines = text.split("\n")
            assert head == f"id \t {HEADS[task.output[0]]} "
            assert lines.pop() == ""
            rows = load_task(task, course_folder, (split,), labelled=()).splits[split]
            answers = predictor.predict(task.name, list(zip(rows["text_a"], rows["text_b"], strict=True)))
            for line, row_id, answer in zip(lines, rows["id"], answers, strict=True):
                written, value = line.removesuffix(" ").split(" , ")
                assert written == row_id
                if task is SST:
                    assert value == str(SST.labels.index(answer["label"]))
                elif task is QUORA:
                    assert value == f"{QUORA.labels.index(answer['label'])}.0"
                else:
                    assert float(value) == pytest.approx(answer["value"], abs=1e-4)


def test_submissions_skip_broken_rows_and_say_so(trained, course_folder, tmp_path, capsys):
    lines = ["\tid\tsentence", *(f"{n}\trow{n}\tab cd {n}" for n in range(200))]
    lines[100] = "99\trow99\t "
    (tmp_path / "ids-sst-dev.csv").write_text("\n".join(lines))
    (path,) = write_submissions(trained, PAPER_TASKS, str(tmp_path), tmp_path / "out", 64, "cpu")
    ids = [line.split(" , ")[0] for line in path.read_text().splitlines()[1:]]
    assert ids == [f"row{n}" for n in range(200) if n != 99]
    assert "ids-sst-dev.csv, line 101, column 'sentence'" in capsys.readouterr().err


def test_submissions_of_the_demo(trained, tmp_path):
    paths = list(write_submissions(trained, {"sst": SST}, "demo", tmp_path, 64, "cpu"))
    assert [path.name for path in paths] == ["sst-dev-output.csv", "sst-test-output.csv"]


def test_a_task_without_output_has_no_submission_file(tmp_path):
    task = Task(name="own", problem="binary", question="Is it?")
    with pytest.raises(InputError, match="'own' declares no 'output'"):
        write_submission(tmp_path / "x.csv", task, [], None)
