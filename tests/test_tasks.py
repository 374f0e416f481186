"""Tasks: the paper's three, those of a YAML file, and what is said about ones that can't work."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qabert.errors import InputError
from qabert.task_files import load_tasks, parse_tasks
from qabert.tasks import METRICS, PAPER_TASKS, PROBLEMS, QUORA, SST, STS, Task
from qabert.yaml_files import read_yaml

TEN_LINES = """\
tasks:
  mood:
    problem: classification
    question: How does the writer feel?
    labels: [sad, calm, glad]
    columns: {text_a: text, label: mood}
    files:
      train: train.csv
      dev: dev.csv
    context: "They wrote: {text_a}"
"""


def make(**values: object) -> Task:
    return Task.from_dict({"name": "mood", "problem": "binary", "question": "Is it so?"} | values)


def write(folder: Path, text: str) -> str:
    path = folder / "tasks.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- the paper's tasks ------------------------------------------------------------------------------------------------


def test_paper_tasks_stand_in_the_papers_order():
    assert list(PAPER_TASKS) == ["sst", "sts", "quora"]


@pytest.mark.parametrize(
    ("task", "problem", "outputs", "pair", "metrics", "question"),
    [
        (SST, "classification", 5, False, ("accuracy", "macro_f1"), "Is this review positive or negative?"),
        (
            STS,
            "regression",
            1,
            True,
            ("pearson", "spearman"),
            "Is the first sentence semantically equivalent to the second sentence?",
        ),
        (QUORA, "binary", 1, True, ("accuracy", "f1"), "Does the first question paraphrase the second question?"),
    ],
    ids=lambda value: value.name if isinstance(value, Task) else "",
)
def test_paper_task_is_what_the_paper_says(task, problem, outputs, pair, metrics, question):
    assert (task.problem, task.num_outputs, task.pair, task.metrics) == (problem, outputs, pair, metrics)
    assert task.question == question
    assert task.score == metrics[0]
    assert task.context == ("First sentence: {text_a} Second sentence: {text_b}" if pair else "{text_a}")


@pytest.mark.parametrize(
    ("task", "columns", "stem"),
    [
        (SST, {"text_a": "sentence", "label": "sentiment", "id": "id"}, "ids-sst"),
        (STS, {"text_a": "sentence1", "text_b": "sentence2", "label": "similarity", "id": "id"}, "sts"),
        (QUORA, {"text_a": "sentence1", "text_b": "sentence2", "label": "is_duplicate", "id": "id"}, "quora"),
    ],
    ids=lambda value: value.name if isinstance(value, Task) else "",
)
def test_paper_task_reads_the_course_files(task, columns, stem):
    assert task.columns == columns
    assert task.files == {
        "train": f"{stem}-train.csv",
        "dev": f"{stem}-dev.csv",
        "test": f"{stem}-test-student.csv",
    }


def test_labels_and_range_of_the_paper_tasks():
    assert SST.labels == ("very negative", "negative", "neutral", "positive", "very positive")
    assert STS.range == (0.0, 5.0)
    assert QUORA.labels.index("paraphrase") == 1


def test_importing_tasks_touches_neither_torch_nor_transformers():
    code = "import sys, qabert.tasks; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# --- parse_label ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "value", "label"),
    [
        (SST, "very positive", 4),
        (SST, " neutral ", 2),
        (SST, "3", 3),
        (SST, 3, 3),
        (SST, 3.0, 3),
        (SST, np.int64(1), 1),
        (QUORA, "0.0", 0),
        (QUORA, "1.0", 1),
        (QUORA, "not a paraphrase", 0),
        (QUORA, True, 1),
        (QUORA, False, 0),
        (STS, "2.6", 2.6),
        (STS, 0, 0.0),
        (STS, 5, 5.0),
        (STS, " 4 ", 4.0),
    ],
)
def test_label_is_read_as_name_or_number(task, value, label):
    parsed = task.parse_label(value)
    assert parsed == label
    assert type(parsed) is (float if task.problem == "regression" else int)


@pytest.mark.parametrize(
    "value", ["5", -1, 2.5, "", "posit", "nan", math.nan, math.inf, "-inf", None, [1], {}, 10**400, "1,0"]
)
def test_unusable_class_label_is_refused_with_what_was_expected(value):
    with pytest.raises(ValueError, match=r"is none of very negative, negative.*, nor a number from 0 to 4"):
        SST.parse_label(value)


@pytest.mark.parametrize("value", ["5.01", -0.001, "nan", math.nan, math.inf, "-inf", "", "high", None, [1.0]])
def test_unusable_regression_label_is_refused_with_the_range(value):
    with pytest.raises(ValueError, match="is not a number from 0 to 5"):
        STS.parse_label(value)


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", " 1 "])
def test_number_means_the_name_where_names_are_numbers(value):
    assert make(problem="classification", labels=[1, 2, 3]).parse_label(value) == 0


def test_number_that_is_no_name_is_no_position_where_names_are_numbers():
    with pytest.raises(ValueError, match=r"label 0 is none of 1, 2, 3$"):
        make(problem="classification", labels=[1, 2, 3]).parse_label(0)


def test_long_label_lists_are_shortened_in_the_message():
    task = make(problem="classification", labels=[f"l{n}" for n in range(50)])
    with pytest.raises(ValueError, match=r"l7, …, nor a number from 0 to 49"):
        task.parse_label("x")


@given(st.integers(0, 4), st.booleans())
def test_label_names_and_numbers_agree(number, text):
    assert SST.parse_label(SST.labels[number]) == SST.parse_label(str(number) if text else number) == number


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.binary()))
def test_parse_label_returns_a_label_or_raises_value_error(value):
    for task in (SST, STS, QUORA):
        try:
            label = task.parse_label(value)
        except ValueError:
            continue
        low, high = task.range or (0, len(task.labels) - 1)
        assert low <= label <= high


# --- a task that can't work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "1st", "with space", "a.b", "a/b", "é", "x" * 65, None, 5])
def test_bad_name_is_refused(name):
    with pytest.raises(InputError, match=r"task name .*: expected a letter"):
        make(name=name)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"problem": "regresion"}, ["task 'mood'", "problem", "did you mean 'regression'"]),
        ({"columns": {"text_a": "a", "lable": "b"}}, ["task 'mood', key 'columns'", "'lable'", "did you mean 'label'"]),
        ({"columns": {"text_a": 5}}, ["task 'mood', key 'columns'", "'text_a' has 5"]),
        ({"columns": ["a", "b"]}, ["task 'mood', key 'columns'", "expected a mapping of text_a, text_b, label, id"]),
        ({"files": {"trian": "x.csv"}}, ["task 'mood', key 'files'", "'trian'", "did you mean 'train'"]),
        ({"files": "train.csv"}, ["task 'mood', key 'files'", "expected a mapping"]),
        ({"hub": {"pth": "x"}}, ["task 'mood', key 'hub'", "did you mean 'path'"]),
        ({"question": "  "}, ["task 'mood', key 'question'", "expected a sentence"]),
        ({"question": 5}, ["task 'mood', key 'question'", "expected a sentence"]),
        ({"metrics": ["acuracy"]}, ["task 'mood', key 'metrics'", "did you mean 'accuracy'"]),
        ({"metrics": ["pearson"]}, ["task 'mood', key 'metrics'", "known: accuracy, f1"]),
        ({"context": 5}, ["task 'mood', key 'context'", "expected text"]),
        ({"context": "{text_a"}, ["task 'mood', key 'context'", "'{text_a'"]),
        ({"context": "no field"}, ["task 'mood', key 'context'", "{text_a} once each"]),
        ({"context": "{text_a} {text_a}"}, ["task 'mood', key 'context'", "{text_a} once each"]),
        ({"context": "{text_a} {text_b}"}, ["task 'mood', key 'context'", "{text_a} once each"]),
        ({"context": "{text_a!r}"}, ["task 'mood', key 'context'", "nothing else in braces"]),
        ({"context": "{text_a:>9}"}, ["task 'mood', key 'context'", "nothing else in braces"]),
        (
            {"context": "{text_a}", "columns": {"text_b": "b"}},
            ["task 'mood', key 'context'", "{text_a} and {text_b} once each"],
        ),
        ({"labels": ["a", "b", "c"]}, ["task 'mood', key 'labels'", "two labels, the positive one second; got 3"]),
        ({"labels": ["a", "a"]}, ["task 'mood', key 'labels'", "two different names"]),
        ({"labels": [False, True]}, ["task 'mood', key 'labels'", "False", "in quotes"]),
        ({"labels": [["a"], "b"]}, ["task 'mood', key 'labels'", "['a'] is not text"]),
        ({"problem": "classification"}, ["task 'mood', key 'labels'", "at least two different names"]),
        ({"problem": "classification", "labels": ["a"]}, ["task 'mood', key 'labels'", "at least two"]),
        ({"range": [0, 1]}, ["task 'mood', key 'range'", "only a regression has a range"]),
        ({"problem": "regression"}, ["task 'mood', key 'range'", "expected [low, high]"]),
        ({"problem": "regression", "range": [5, 0]}, ["task 'mood', key 'range'", "low < high"]),
        ({"problem": "regression", "range": [0, math.inf]}, ["task 'mood', key 'range'", "expected [low, high]"]),
        ({"problem": "regression", "range": [0, 1, 2]}, ["task 'mood', key 'range'", "expected [low, high]"]),
        ({"problem": "regression", "range": [0, 1], "labels": ["a", "b"]}, ["task 'mood', key 'labels'", "no labels"]),
    ],
)
def test_error_names_task_and_key_and_suggests(values, parts):
    with pytest.raises(InputError) as raised:
        make(**values)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize("key", ["labels", "metrics", "range", "output"])
@pytest.mark.parametrize("value", ["text", 5])
def test_list_key_without_a_list_is_refused(key, value):
    with pytest.raises(InputError, match=f"key '{key}' has {value!r}; expected a list"):
        make(**{key: value})


@pytest.mark.parametrize("key", ["name", "problem", "question"])
def test_missing_key_is_named(key):
    values = {"name": "mood", "problem": "binary", "question": "So?"}
    del values[key]
    with pytest.raises(InputError, match=f"here: key '{key}' is missing"):
        Task.from_dict(values, "here")


def test_unknown_key_is_named_with_the_nearest_one():
    with pytest.raises(InputError, match=r"unknown key 'quetion' \(did you mean 'question'\?\)"):
        make(quetion="So?")


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_defaults_of_a_single_sentence_task():
    task = make()
    assert task.columns == {"text_a": "sentence", "label": "label"}
    assert (task.labels, task.context, task.metrics) == (("no", "yes"), "{text_a}", METRICS["binary"])


def test_naming_text_b_makes_a_pair():
    task = make(columns={"text_b": "other"})
    assert task.pair
    assert task.columns == {"text_a": "sentence1", "text_b": "other", "label": "label"}
    assert task.context == "First sentence: {text_a} Second sentence: {text_b}"


def test_binary_task_may_be_judged_by_macro_f1():
    assert make(metrics=["macro_f1"]).score == "macro_f1"


def test_task_is_frozen():
    with pytest.raises(AttributeError):
        SST.name = "other"


# --- YAML -------------------------------------------------------------------------------------------------------------


def test_own_task_of_ten_lines(tmp_path):
    assert TEN_LINES.count("\n") == 10
    (task,) = load_tasks(write(tmp_path, TEN_LINES)).values()
    assert (task.name, task.labels, task.num_outputs) == ("mood", ("sad", "calm", "glad"), 3)
    assert task.files == {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "dev.csv")}


def test_paper_task_by_its_name_alone(tmp_path):
    assert load_tasks(write(tmp_path, "tasks:\n  quora:\n  sst:\n")) == {"quora": QUORA, "sst": SST}


def test_paper_task_with_one_key_changed(tmp_path):
    (task,) = load_tasks(write(tmp_path, "tasks:\n  sts:\n    question: How alike?\n    range: [0, 1]\n")).values()
    assert (task.question, task.range) == ("How alike?", (0.0, 1.0))
    assert (task.columns, task.files, task.metrics) == (STS.columns, STS.files, STS.metrics)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks:\n  sst:\n  sst:\n", r"tasks\.yaml, line 3, column 3: .*key 'sst' stands twice"),
        ("tasks:\n  sst: [1\n", r"tasks\.yaml, line 3, column 1: not valid YAML"),
        ("tasks:\n\tsst:\n", r"tasks\.yaml, line 2, column 1: not valid YAML"),
        ("tasks: !!python/name:os.system\n", r"tasks\.yaml, line 1, column 8: not valid YAML"),
        ("tasks: 2020-13-45\n", r"tasks\.yaml: not valid YAML: ValueError"),
        ("tasks: !!bool maybe\n", r"tasks\.yaml: not valid YAML: KeyError"),
        ("tasks: !!int ''\n", r"tasks\.yaml: not valid YAML: IndexError"),
        ("tasks: !!timestamp soon\n", r"tasks\.yaml: not valid YAML: AttributeError"),
        ("tasks: !!map [a]\n", r"tasks\.yaml: not valid YAML: TypeError"),
        ("tasks: " + "[" * 2000, r"tasks\.yaml.*: not valid YAML"),
        ("- sst\n", r"tasks\.yaml: expected 'key: value' lines at the top, got list"),
        ("", r"tasks\.yaml: expected 'key: value' lines at the top, got NoneType"),
        ("1: 2\n", r"tasks\.yaml: expected 'key: value' lines at the top"),
        ("task:\n  sst:\n", r"tasks\.yaml: expected one key, 'tasks:'.*got \['task'\]"),
        ("tasks:\n", r"tasks\.yaml: expected one key, 'tasks:'"),
        ("tasks: {}\n", r"tasks\.yaml: no task is declared"),
        ("tasks:\n  stt:\n", r"tasks\.yaml: unknown task 'stt' \(did you mean 'sts'\?\)"),
        ("tasks:\n  sst: 5\n", r"tasks\.yaml, task 'sst': expected 'key: value' lines, got 5"),
        ("tasks:\n  sst:\n    label: [a, b]\n", r"task 'sst': unknown key 'label' \(did you mean 'labels'\?\)"),
        ("tasks:\n  m:\n    problem: binary\n", r"tasks\.yaml, task 'm': key 'question' is missing"),
        ("tasks:\n  quora:\n    labels: [no, yes]\n", r"task 'quora', key 'labels': label False is not text .*quotes"),
    ],
)
def test_yaml_that_cannot_work_names_the_place(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_tasks(write(tmp_path, text))


def test_quoted_yes_and_no_are_labels(tmp_path):
    (task,) = load_tasks(write(tmp_path, "tasks:\n  quora:\n    labels: ['no', 'yes']\n")).values()
    assert task.labels == ("no", "yes")


def test_merge_keys_are_no_duplicates(tmp_path):
    text = "tasks:\n  a: &a {problem: binary, question: 'So?'}\n  b:\n    <<: *a\n    question: Or so?\n"
    tasks = load_tasks(write(tmp_path, text))
    assert [tasks[name].question for name in "ab"] == ["So?", "Or so?"]


def test_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "tasks.yaml"
    path.write_bytes(b"tasks:\n  sst: \xff\n")
    with pytest.raises(InputError, match=r"tasks\.yaml: byte 14 is not UTF-8"):
        load_tasks(str(path))


def test_missing_file_and_folder_are_refused(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    for name in ("none.yaml", "folder.yaml"):
        with pytest.raises(InputError, match=f"{name}: can't be read"):
            read_yaml(tmp_path / name)


# --- other ways to name tasks -----------------------------------------------------------------------------------------


def test_no_spec_means_the_paper_tasks():
    assert load_tasks(None) == PAPER_TASKS


@pytest.mark.parametrize("spec", ["quora, sst", ["quora", "sst"], iter(["quora", "sst"]), {"quora": None, "sst": {}}])
def test_names_keep_their_order(spec):
    assert list(load_tasks(spec)) == ["quora", "sst"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sst,quorra", r"unknown task 'quorra' \(did you mean 'quora'\?\)"),
        ("sst,sst", "a task is named twice"),
        ("", "unknown task ''"),
        ([], "no task is declared"),
        ({}, "no task is declared"),
        ([{"name": "sst"}], "expected names of tasks"),
        (5, "expected names of tasks"),
    ],
)
def test_spec_that_names_no_tasks_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        load_tasks(spec)


def test_relative_files_stay_as_they_are_without_a_folder():
    (task,) = parse_tasks({"sst": {"files": {"train": "t.csv"}}}, "recipe").values()
    assert task.files == {"train": "t.csv"}


def test_absolute_files_stay_absolute(tmp_path):
    file = str(tmp_path / "elsewhere" / "t.csv")
    (task,) = parse_tasks({"sst": {"files": {"train": file}}}, "recipe", tmp_path / "folder").values()
    assert task.files == {"train": file}


# --- round trip -------------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=12)
column_names = st.fixed_dictionaries({}, optional={key: words for key in ("text_a", "text_b", "label", "id")})
column_names = column_names.filter(  # two texts, or a text and the label, can't be one column
    lambda names: len(set(read := [n for key, n in names.items() if key != "id"])) == len(read)
)


@st.composite
def tasks(draw):
    problem, columns = draw(st.sampled_from(PROBLEMS)), draw(column_names)
    values = {
        "name": draw(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,63}", fullmatch=True)),
        "problem": problem,
        "question": draw(words.filter(str.strip)),
        "columns": columns,
        "files": draw(st.fixed_dictionaries({}, optional={"train": words, "dev": words})),
        "hub": draw(st.fixed_dictionaries({}, optional={"path": words, "splits": st.dictionaries(words, words)})),
        "metrics": draw(st.lists(st.sampled_from(METRICS[problem]), max_size=2)),
        "output": draw(
            st.none() | st.tuples(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True), words.filter(bool))
        ),
    }
    if draw(st.booleans()):
        fields = draw(st.permutations(["{text_a}"] + ["{text_b}"] * ("text_b" in columns)))
        values["context"] = draw(words) + fields[0] + "{{" + draw(words) + "}}" + "".join(fields[1:]) + draw(words)
    if problem == "regression":
        low = draw(st.floats(-1e6, 1e6))
        values["range"] = [low, low + draw(st.floats(0.5, 1e6))]
    else:
        most = 2 if problem == "binary" else 9
        values["labels"] = draw(st.lists(words, min_size=2, max_size=most, unique=True))
    return Task.from_dict(values)


@given(tasks())
@settings(deadline=None)
def test_task_survives_the_way_through_a_checkpoint(task):
    values = task.to_dict()
    again = Task.from_dict(json.loads(json.dumps(values)))
    assert again.to_dict() == values
    assert again == Task.from_dict({**{key: getattr(task, key) for key in values}})


@given(tasks())
@settings(deadline=None)
def test_checkpoint_names_no_places(task):
    assert not {"files", "hub"} & set(task.to_dict())


# --- anything at all --------------------------------------------------------------------------------------------------

KEYS = ["tasks", "sst", "mood", "name", "problem", "question", "context", "labels", "range", "columns", "metrics"]
KEYS += ["files", "hub", "output", "text_a", "text_b", "train", "path", "binary", "regression", "classification"]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.binary(max_size=3),
    st.text(max_size=5),
    st.sampled_from(KEYS),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | scalars, inner, max_size=4),
    max_leaves=12,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "problem": st.sampled_from(PROBLEMS) | values,
        "question": st.just("So?") | values,
        "context": st.text("{}text_ab!:", max_size=20) | values,
        "labels": values,
        "range": st.lists(st.floats() | st.integers(), max_size=3) | values,
        "columns": values,
        "metrics": values,
        "files": values,
        "hub": values,
        "output": values,
    },
)


def only_tasks_or_input_error(call, *args):
    try:
        result = call(*args)
    except InputError:
        return
    assert result and all(isinstance(task, Task) for task in result.values())


@given(st.dictionaries(st.sampled_from(["sst", "sts", "mood"]) | scalars, fields | values, max_size=3))
@settings(deadline=None, max_examples=300)
def test_random_values_are_tasks_or_an_input_error(declared):
    only_tasks_or_input_error(parse_tasks, declared, "here", Path("folder"))


@given(values)
@settings(deadline=None, max_examples=200)
def test_random_spec_is_tasks_or_an_input_error(spec):
    only_tasks_or_input_error(load_tasks, spec)


MARKS = [": ", "\n  ", "\n    ", "- ", "!!int ", "!!map ", "!!set ", "!!omap ", "<<: ", "&a ", "*a", "yes", "1_0", "0x"]
MARKS += [*":,[]{}-?&*!|>'\"#%@ \n\t", "1:2:3", "2020-13-45", "\x00", "é", "tasks:\n  mood:\n    "]
snippets = st.sampled_from(KEYS + MARKS)


@given(st.lists(snippets | st.text(max_size=4), max_size=25).map("".join))
@settings(deadline=None, max_examples=300)
def test_random_yaml_is_tasks_or_an_input_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    only_tasks_or_input_error(load_tasks, str(path))


def test_messages_are_one_line(tmp_path):
    """What the command line prints is read by a person."""
    with pytest.raises(InputError) as raised:
        load_tasks(write(tmp_path, "tasks:\n  sst: [1\n"))
    assert not re.search(r"\n|Traceback", str(raised.value))


@pytest.mark.parametrize("output", [("x",), ("a", "b", "c"), ("", "title"), ("../up", "title"), ("x", 1)])
def test_output_is_a_part_of_a_file_name_and_a_title(output):
    with pytest.raises(InputError, match="task 't', key 'output'"):
        Task(name="t", problem="binary", question="?", output=output)
