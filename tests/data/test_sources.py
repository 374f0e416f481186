import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from qabert.data import cleaning
from qabert.data.sources import Dropped, load_data, load_task
from qabert.errors import InputError
from qabert.tasks import PAPER_TASKS, QUORA, SST, STS, Task

HEADER = {
    "sst": "\tid\tsentence\tsentiment\n",
    "sts": "\tid\tsentence1\tsentence2\tsimilarity\n",
    "quora": "\tid\tsentence1\tsentence2\tis_duplicate\n",
}
MOOD = Task(
    name="mood",
    problem="classification",
    question="How does the writer feel?",
    labels=("sad", "glad"),
    files={"train": "train.jsonl", "dev": "dev.jsonl"},
    hub={"path": "someone/mood", "columns": {"text_a": "text"}},
)


def write(folder: Path, task: Task, split: str, lines: list[str]) -> None:
    (folder / task.files[split]).write_text(HEADER[task.name] + "\n".join(lines) + "\n", encoding="utf-8")


def write_json(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def sst_lines(number: int) -> list[str]:
    return [f"{n}\tid{n}\tsentence {n}\t{n % 5}" for n in range(number)]


def test_rows_of_the_three_papers_tasks(tmp_path):
    for split in ("train", "dev"):
        write(tmp_path, SST, split, ["0\ta7\t It 's lovely . \tvery positive"])
        write(tmp_path, STS, split, ["0\tb1\tA dog.\tA cat.\t3.25"])
        write(tmp_path, QUORA, split, ["0\tc2\tWhy?\tHow?\t1.0", "1\tc3\tWho?\tWho is it?\t0.0"])
    loaded = load_data(PAPER_TASKS, str(tmp_path))
    assert {name: list(data.splits) for name, data in loaded.items()} == {
        name: ["train", "dev"] for name in PAPER_TASKS
    }
    assert loaded["sst"].splits["train"].to_list() == [
        {"text_a": "It 's lovely .", "text_b": None, "label": 4, "id": "a7"}
    ]
    assert loaded["sts"].splits["dev"].to_list() == [
        {"text_a": "A dog.", "text_b": "A cat.", "label": 3.25, "id": "b1"}
    ]
    assert loaded["quora"].splits["dev"]["label"][:] == [1, 0]
    assert loaded["quora"].read == {"train": 2, "dev": 2}
    assert loaded["quora"].dropped == {"train": [], "dev": []}


@pytest.mark.parametrize(("task", "label"), [(SST, "int64"), (STS, "float64"), (QUORA, "int64")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_columns_have_the_same_types_with_and_without_values(tmp_path, task, label, split):
    fields = "0\tid\ttext" + "\ttext" * task.pair
    write(tmp_path, task, split, [f"{fields}\t1" if split == "train" else f"{fields}\t"])
    features = load_task(task, tmp_path, [split]).splits[split].features
    assert {name: feature.dtype for name, feature in features.items()} == {
        "text_a": "string",
        "text_b": "string",
        "label": label,
        "id": "string",
    }


def test_a_row_without_an_id_is_called_by_its_split_and_number(tmp_path):
    rows = [{"sentence": text, "label": 0} for text in ("a", "", "b", *"c" * 100)]
    write_json(tmp_path, "dev.jsonl", rows)
    assert load_task(MOOD, tmp_path, ["dev"]).splits["dev"]["id"][:3] == ["dev-0", "dev-2", "dev-3"]


def test_ids_may_be_numbers_empty_or_repeated(tmp_path):
    task = Task(name="t", problem="binary", question="?", columns={"id": "key"}, files={"dev": "dev.jsonl"})
    write_json(tmp_path, "dev.jsonl", [{"sentence": "a", "label": 1, "key": key} for key in (7, None, "x", "x")])
    assert load_task(task, tmp_path, ["dev"]).splits["dev"]["id"][:] == ["7", "dev-1", "x", "x"]


def test_broken_rows_are_skipped_counted_and_named(tmp_path):
    lines = sst_lines(400)
    lines[2] = "2\tid2\tno label\t"
    lines[5] = "5\tid5\t \t3"
    lines[9] = "9\tid9\tlabel out of range\t5"
    lines[20] = "20\tid20\tshort"
    write(tmp_path, SST, "train", lines)
    loaded = load_task(SST, tmp_path, ["train"])
    file = str(tmp_path / "ids-sst-train.csv")
    assert [str(row) for row in loaded.dropped["train"]] == [
        f"{file}, line 4, column 'sentiment': the label is missing",
        f"{file}, line 7, column 'sentence': the text is empty",
        f"{file}, line 11, column 'sentiment': label '5' is none of very negative, negative, neutral, positive, "
        "very positive, nor a number from 0 to 4",
        f"{file}, line 22, column 'sentiment': 3 fields where the header has 4",
    ]
    assert loaded.read == {"train": 400}
    assert loaded.splits["train"]["id"][:] == [f"id{n}" for n in range(400) if n not in (2, 5, 9, 20)]


# One broken row among 100 good ones, so that it is skipped.
@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"label": 1}, "sentence", "lacks this key"),
        ({"sentence": None, "label": 1}, "sentence", "the text is missing"),
        ({"sentence": 5, "label": 1}, "sentence", "expected text, got int"),
        ({"sentence": " \t\n", "label": 1}, "sentence", "the text is empty"),
        ({"sentence": "\ud800", "label": 1}, "sentence", "character 1 is half a surrogate pair"),
        ({"sentence": "x" * 100_001, "label": 1}, "sentence", "100001 characters; expected at most 100000"),
        ({"sentence": "x", "label": None}, "label", "the label is missing"),
        ({"sentence": "x", "label": "bad"}, "label", "label 'bad' is none of sad, glad"),
        ({"sentence": "x", "label": float("nan")}, "label", "label nan is none of"),
        ({"sentence": "x", "label": 10**400}, "label", "sad, glad, nor a number from 0 to 1"),
        ({"sentence": "x", "label": [1]}, "label", "expected a label, got list"),
        ({"sentence": "x", "label": 1, "key": {}}, "key", "expected text or a number, got dict"),
        ({"sentence": "x", "label": 1, "key": "\udfff"}, "key", "half a surrogate pair"),
    ],
)
def test_what_makes_a_row_broken(tmp_path, row, column, reason):
    task = Task(name="t", problem="classification", question="?", labels=("sad", "glad"), columns={"id": "key"})
    task = Task.from_dict(task.to_dict() | {"files": {"dev": "dev.jsonl"}})
    write_json(tmp_path, "dev.jsonl", [row] + [{"sentence": "fine", "label": 0}] * 100)
    loaded = load_task(task, tmp_path, ["dev"])
    (dropped,) = loaded.dropped["dev"]
    assert (dropped.file, dropped.line, dropped.column) == (str(tmp_path / "dev.jsonl"), 1, column)
    assert reason in dropped.reason
    assert len(loaded.splits["dev"]) == 100


def test_a_long_value_does_not_flood_the_message(tmp_path):
    lines = sst_lines(100)
    lines[0] = f"0\tid\ttext\t{'9' * 50_000}"
    write(tmp_path, SST, "dev", lines)
    (dropped,) = load_task(SST, tmp_path, ["dev"]).dropped["dev"]
    assert len(dropped.reason) < 500
    assert dropped.reason.endswith("nor a number from 0 to 4")


@pytest.mark.parametrize(
    ("rows", "broken", "refused"), [(200, 2, False), (200, 3, True), (50, 1, False), (49, 1, True), (1, 1, True)]
)
def test_more_than_one_percent_of_broken_rows_is_refused(tmp_path, rows, broken, refused):
    write(tmp_path, SST, "train", ["0\tid\t\t1"] * broken + sst_lines(rows - broken))
    if refused:
        with pytest.raises(InputError, match=f"{broken} of {rows} rows are broken, more than the 1 %"):
            load_task(SST, tmp_path, ["train"])
    else:
        assert len(load_task(SST, tmp_path, ["train"]).dropped["train"]) == broken


def test_what_is_wrong_with_several_files_is_told_at_once(tmp_path):
    for task, split in ((SST, "train"), (STS, "dev")):
        write(tmp_path, task, split, ["0\tid\t\t1"] * 9)
    write(tmp_path, SST, "dev", ["0\tid\t\t1"] * 7)
    with pytest.raises(InputError) as caught:
        load_data({"sst": SST, "sts": STS}, tmp_path)
    said = str(caught.value)
    assert "9 of 9 rows are broken" in said and "7 of 7 rows are broken" in said  # both files of a task
    assert "sts-train.csv: no such file" in said  # and the next task's


def test_a_column_of_wrong_labels_is_one_error_with_places_and_what_was_expected(tmp_path):
    write(tmp_path, STS, "dev", [f"{n}\tid\ta\tb\t{6 + n}" for n in range(50)])
    with pytest.raises(InputError) as caught:
        load_task(STS, tmp_path, ["dev"])
    first, *listed = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / 'sts-dev.csv'}: 50 of 50 rows are broken")
    assert len(listed) == 5
    assert "sts-dev.csv, line 2, column 'similarity': label '6' is not a number from 0 to 5" in listed[0]


def test_strict_raises_at_the_first_broken_row(tmp_path):
    lines = sst_lines(400)
    lines[2] = lines[7] = "2\tid2\tno label\t"
    write(tmp_path, SST, "train", lines)
    place = re.escape(f"{tmp_path / 'ids-sst-train.csv'}, line 4, column 'sentiment': the label is missing")
    with pytest.raises(InputError, match=rf"{place} \(2 of 400 rows"):
        load_data({"sst": SST}, tmp_path, ["train"], strict=True)


def test_a_test_split_needs_no_label_column(tmp_path):
    (tmp_path / "ids-sst-test-student.csv").write_text("0\t\tid\tsentence\n1\t0.0\tb7\tEffective\n")
    loaded = load_task(SST, tmp_path, ["test"])
    assert loaded.splits["test"].to_list() == [{"text_a": "Effective", "text_b": None, "label": None, "id": "b7"}]


def test_usable_labels_of_a_test_split_are_kept(tmp_path):
    write(tmp_path, SST, "test", ["0\ta\tx\t3", "1\tb\ty\t-1", "2\tc\tz\t"])
    assert load_task(SST, tmp_path, ["test"]).splits["test"]["label"][:] == [3, None, None]


def test_a_test_split_that_is_said_to_be_labelled_needs_labels(tmp_path):
    write(tmp_path, SST, "test", ["0\ta\tx\t"])
    with pytest.raises(InputError, match="line 2, column 'sentiment': the label is missing"):
        load_task(SST, tmp_path, ["test"], labelled=("test",))


def test_a_broken_row_of_a_test_split_is_dropped(tmp_path):
    write(tmp_path, SST, "test", [*sst_lines(200), "200\tid\t\t"])
    loaded = load_task(SST, tmp_path, ["test"])
    assert loaded.dropped["test"] == [
        Dropped(str(tmp_path / "ids-sst-test-student.csv"), 202, "sentence", "the text is empty")
    ]


def test_a_train_file_without_labels(tmp_path):
    (tmp_path / "ids-sst-train.csv").write_text("\tid\tsentence\n0\ta\tx\n")
    with pytest.raises(InputError, match=r"ids-sst-train.csv, line 1: column 'sentiment' is missing"):
        load_task(SST, tmp_path, ["train"])


def test_a_test_split_that_the_task_does_not_declare_is_left_out(tmp_path):
    write_json(tmp_path, "dev.jsonl", [{"sentence": "a", "label": 0}])
    assert list(load_task(MOOD, tmp_path, ["dev", "test"]).splits) == ["dev"]


def test_a_train_split_that_the_task_does_not_declare(tmp_path):
    with pytest.raises(InputError, match="task 't', key 'files': no file is declared for the split 'train'"):
        load_task(Task(name="t", problem="binary", question="?"), tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_file_names_the_nearest_one(tmp_path, split):
    (tmp_path / f"ids-sst-{split}s.csv").touch()
    with pytest.raises(InputError, match=rf"no such file.*did you mean 'ids-sst-{split}s.csv'.*folder has: ids-sst"):
        load_task(SST, tmp_path, [split])


@pytest.mark.parametrize(
    ("name", "expected"), [("nowhere", "no such folder"), ("file", "is a file"), ("\0", "no such")]
)
def test_data_that_is_no_folder(tmp_path, name, expected):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{expected}.*; expected the folder of the task's files, or 'demo' or 'hub'"):
        load_task(SST, tmp_path / name)


def test_a_file_in_a_folder_that_does_not_exist(tmp_path):
    task = Task(name="t", problem="binary", question="?", files={"train": "sub/train.csv"})
    with pytest.raises(InputError, match=r"train.csv: no such file.*folder .*sub be listed: No such file"):
        load_task(task, tmp_path)


def test_an_absolute_file_wins_over_the_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_json(tmp_path, "train.jsonl", [{"sentence": "a", "label": 0}])
    task = Task.from_dict(MOOD.to_dict() | {"files": {"train": str(tmp_path / "train.jsonl")}})
    assert len(load_task(task, tmp_path / "elsewhere", ["train"]).splits["train"]) == 1


def test_a_task_with_files_of_its_own_needs_no_folder(tmp_path):
    write_json(tmp_path, "train.jsonl", [{"sentence": "a", "label": 0}])
    task = Task.from_dict(MOOD.to_dict() | {"files": {"train": str(tmp_path / "train.jsonl")}})
    for data in (None, "demo", "hub"):
        assert len(load_task(task, data, ["train"]).splits["train"]) == 1


def test_relative_files_need_a_folder():
    with pytest.raises(InputError, match="task 'sst': set data to the folder with its files, or to 'hub' or 'demo'"):
        load_task(SST, None)


def test_an_unknown_split():
    with pytest.raises(InputError, match=r"unknown split 'tset' .did you mean 'test'"):
        load_task(SST, "demo", ["tset"])


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_demo_rows(name):
    loaded = load_task(PAPER_TASKS[name], "demo", ["train", "dev", "test"])
    assert list(loaded.splits) == ["train", "dev", "test"]
    assert not any(loaded.dropped.values())
    assert None not in loaded.splits["train"]["label"][:]
    assert (None in loaded.splits["train"]["text_b"][:]) != PAPER_TASKS[name].pair


def test_the_demo_has_no_other_tasks():
    with pytest.raises(InputError, match=r"task 'mood': the demo has rows for .*sst.* only"):
        load_task(MOOD, "demo")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set where `load_dataset` finds it without a network: a folder, loaded by the same function."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub"
    folder.mkdir()
    for split, label in (("train", 1), ("validation", 0), ("test", -1)):
        write_json(folder, f"{split}.jsonl", [{"text": f" {split} text", "label": label, "extra": 0}])
    return folder


def on_hub(path: object, **hub: object) -> Task:
    return Task.from_dict(MOOD.to_dict() | {"hub": {"path": str(path), "columns": {"text_a": "text"}} | hub})


def test_hub_splits_columns_and_missing_labels(hub):
    loaded = load_task(on_hub(hub), "hub", ["train", "dev", "test"])
    assert {split: rows.to_list() for split, rows in loaded.splits.items()} == {
        "train": [{"text_a": "train text", "text_b": None, "label": 1, "id": "train-0"}],
        "dev": [{"text_a": "validation text", "text_b": None, "label": 0, "id": "dev-0"}],
        "test": [{"text_a": "test text", "text_b": None, "label": None, "id": "test-0"}],
    }


def test_hub_splits_may_be_renamed(hub):
    assert load_task(on_hub(hub, splits={"dev": "train"}), "hub", ["dev"]).splits["dev"]["label"][:] == [1]


def test_a_hub_dataset_without_a_test_split(hub):
    (hub / "test.jsonl").unlink()
    assert list(load_task(on_hub(hub), "hub", ["train", "test"]).splits) == ["train"]
    with pytest.raises(InputError, match=r"split 'test'.*unknown split 'test'; known: train, validation"):
        load_task(on_hub(hub, splits={"test": "test"}), "hub", ["train", "test"])


def test_a_broken_row_of_the_hub_names_the_dataset_and_the_split(hub):
    with pytest.raises(InputError, match=r"hub dataset '.*', split 'test', line 1, column 'label': label -1 is"):
        load_task(on_hub(hub, splits={"train": "test"}), "hub", ["train"])


def test_a_hub_column_that_is_missing(hub):
    with pytest.raises(InputError, match=r"split 'train': column 'texts' is missing .did you mean 'text'"):
        load_task(on_hub(hub, columns={"text_a": "texts"}), "hub")


@pytest.mark.parametrize(
    ("hub", "expected"),
    [
        ({}, "no 'path' of a dataset"),
        ({"path": "x", "splits": "validation"}, "'splits': expected a mapping of train, dev, test"),
        ({"path": "x", "columns": {"text_a": 1}}, "'columns': expected a mapping of text_a"),
        ({"path": "x", "splits": {"eval": "validation"}}, "'splits': unknown key 'eval'"),
    ],
)
def test_a_hub_declaration_that_can_not_work(hub, expected):
    with pytest.raises(InputError, match=f"task 'mood', key 'hub'.*{expected}"):
        load_task(Task.from_dict(MOOD.to_dict() | {"hub": hub}), "hub")


@pytest.mark.parametrize(
    "error", [ConnectionError("no route\nto host"), ValueError("BuilderConfig"), OSError(28, "full")]
)
def test_any_failure_of_the_hub_is_one_error_that_says_what_to_do(monkeypatch, error):
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    expected = (
        "hub dataset 'someone/mood' of task 'mood' can't be loaded; check its name, the network.*or set data to a"
    )
    with pytest.raises(InputError, match=f"{expected}.*{type(error).__name__}") as caught:
        load_task(MOOD, "hub")
    assert "\n" not in str(caught.value)


def test_an_offline_hub_is_an_input_error(tmp_path):
    code = "import sys; from qabert.data.sources import load_task; from qabert.tasks import SST; load_task(SST, 'hub')"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stderr.splitlines()[-1].startswith("qabert.errors.InputError: hub dataset 'SetFit/sst5' of task 'sst'")


def test_the_limit_of_a_text_is_what_a_reader_can_hold():
    assert csv.field_size_limit() > cleaning.MAX_CHARACTERS  # else a long text would be called bad quoting
