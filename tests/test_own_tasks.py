"""What goes wrong with a task of one's own is told with the place, and what was expected there."""

from __future__ import annotations

import json
import random
import re

import pytest
import yaml

from qabert.cli import run
from qabert.inference import Predictor

TASK = """tasks:
  topic:
    problem: classification
    question: What is it about?
    columns: {text_a: headline, label: topic}
    labels: [world, sports]
    files: {train: train.csv, dev: dev.csv}
"""
ROWS = "headline,topic\n" + "ab cd ef,world\ngh ij,sports\n" * 15
REGRESSION = ("problem: classification", "problem: regression"), ("labels: [world, sports]", "range: [0, 10]")
#: By name: replacements in the YAML file, replacements in the training file, what the message says.
MISTAKES = {
    "tab": ([("    labels", "\tlabels")], [], r"tasks.yaml, line 6, column 1: not valid YAML: .*indent with spaces"),
    "colon in a text": ([("What is", "Topic: what is")], [], r"line 4, column 20: .*\(a text with ': ' in it stands"),
    "sign before a text": ([("What", "%What")], [], "line 4, column 15: .*a text that starts with this sign stands in"),
    "indentation": ([("    labels", "   labels")], [], "line 6, column 4: .*lines of one mapping are indented alike"),
    "list of tasks": ([("  topic:\n    ", "  - name: topic\n    ")], [], "'NAME:' and the task's own .* got a list"),
    "no tasks": ([(TASK, "tasks:")], [], "tasks.yaml: expected one key, 'tasks:', .*; got nothing"),
    "not indented": ([("  topic", "topic"), ("    ", "  ")], [], r"got \['tasks', 'topic'\]; indent them under it"),
    "multiclass": ([("classification", "multiclass")], [], "tasks.yaml: task 'topic': .*did you mean 'classification'"),
    "binary": ([("classification", "binary_classification")], [], r"did you mean 'binary'\?"),
    "similarity": ([("classification", "similarity")], [], r"did you mean 'regression'\?"),
    "validation": ([("dev:", "validation:")], [], r"key 'files': unknown key 'validation' \(did you mean 'dev'\?\)"),
    "text": ([("text_a", "text")], [], r"key 'columns': unknown key 'text' \(did you mean 'text_a'\?\)"),
    "target": ([("label:", "target:")], [], r"key 'columns': unknown key 'target' \(did you mean 'label'\?\)"),
    "classes": ([("labels:", "classes:")], [], r"task 'topic': unknown key 'classes' \(did you mean 'labels'\?\)"),
    "acc": ([("    labels", "    metrics: [acc]\n    labels")], [], r"unknown metric 'acc' \(did you mean 'accuracy'"),
    "one column twice": ([("a: head", "a: headline, text_b: head")], [], "two of text_a, text_b and label name"),
    "yes and no": ([("[world, sports]", "[yes, no]")], [], "label True is not text .YAML reads a bare yes, .*quotes"),
    "labels by number": ([("[world, sports]", "{0: world, 1: sports}")], [], "key 'labels' has {0: 'world', .* a list"),
    "no range": ([REGRESSION[0], ("    labels: [world, sports]\n", "")], [], "tasks.yaml: task 'topic', key 'range'"),
    "other case": ([], [("world", "World")], r"line 2, column 'topic': label 'World' is .* \(did you mean 'world'\?\)"),
    "other signs": ([("world,", "very good,")], [("world", "Very_Good")], r"'Very_Good' .*\(did you mean 'very good'"),
    "typing error": ([], [("sports", "sprots")], r"line 3, .*'sprots' .*\(did you mean 'sports'\?\) \(15 such rows\)"),
    "two mistakes": ([], [("world\n", "wurld\n"), ("ij,sports", "ij,")], "(?s)line 2, .*wurld.*15 such.*line 3, .*mis"),
    "decimal comma": (REGRESSION, [("headline,topic", "headline;topic"), ("ef,world", "ef;3,5"), ("ij,sports", "ij;4")],
                      r"label '3,5' is not a number from 0 to 10 \(write 3\.5\)"),
    "no header": ([], [("headline,topic\n", "")], "'headline' is missing; .*the first line has to name the columns"),
    "commas in texts": ([], [("ab cd", "ab, cd")], r"3 fields where the header has 2 \(a text with a comma in it"),
    "JSON array": ([("train.csv", "train.json")], [(ROWS, '[{"headline": "ab", "topic": "world"}]')], "line 1: a JSON"),
    "JSON array of lines": ([("train.csv", "train.json")], [(ROWS, '\n[\n{"headline": "ab"}\n]')], "line 2: a JSON"),
    "spreadsheet": ([("train.csv", "train.xlsx")], [], r"train.xlsx: unknown kind of file .*\(save the sheet as CSV"),
    "archive": ([("train.csv", "train.csv.gz")], [], r"unknown kind of file '.gz'.*\(unpack it first\)"),
    "folder elsewhere": ([("train: train", "train: /nowhere/train")], [], "/nowhere/train.csv: no such file"),
}  # fmt: skip


def write(folder, declared=TASK, rows=ROWS):
    (folder / "tasks.yaml").write_text(declared, encoding="utf-8")
    name = next(
        n for n in ("train.xlsx", "train.csv.gz", "train.json", "train.csv") if n in declared or n == "train.csv"
    )
    (folder / name).write_text(rows, encoding="utf-8")
    (folder / "dev.csv").write_text(ROWS, encoding="utf-8")
    return folder / "tasks.yaml"


def replaced(text, pairs):
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_what_was_expected(name, tmp_path, encoder_path, capsys):
    declared, rows, message = MISTAKES[name]
    path = write(tmp_path, replaced(TASK, declared), replaced(ROWS, rows))
    with pytest.raises(SystemExit) as ended:
        run("train", [*flags(encoder_path), "--tasks", str(path), "--output_dir", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert "Traceback" not in said
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()


def test_a_label_that_no_training_row_has_is_told(tmp_path, encoder_path, capsys):
    path = write(tmp_path, TASK.replace("sports]", "sports, travel]"))
    run("train", [*flags(encoder_path), "--tasks", str(path), "--output_dir", str(tmp_path / "out")])
    assert "topic: no train row has the label 'travel': it can't be learnt" in capsys.readouterr().out


def flags(encoder_path):
    return [
        "--encoder", encoder_path, "--use_cpu=true", "--disable_tqdm=true", "--max_length=64", "--num_train_epochs=1",
        "--learning_rate=1e-3", "--head_blocks=0",
    ]  # fmt: skip


def test_thirty_tasks_in_one_model(tmp_path, encoder_path, capsys):
    """Mixed problems, pairs and single sentences: trained, scored and asked, each by its own name."""
    rng, tasks = random.Random(0), {}
    for number in range(30):
        name, problem = f"task-{number}", ("classification", "binary", "regression")[number % 3]
        columns = {"text_a": "a", "label": "y"} | ({"text_b": "b"} if number % 2 else {})
        kind = {"classification": {"labels": [f"l{n}" for n in range(2 + number % 5)]}, "regression": {"range": [0, 1]}}
        files = {split: f"{name}-{split}.jsonl" for split in ("train", "dev")}
        tasks[name] = {"problem": problem, "question": f"ab {number}?", "columns": columns, "files": files}
        tasks[name] |= kind.get(problem, {})
        for split, rows in (("train", 10 + number), ("dev", 6)):
            label = tasks[name].get("labels") or ([0.1, 0.5, 0.9] if problem == "regression" else ["no", "yes"])
            lines = [
                json.dumps({"a": f"ab cd {rng.randrange(99)}", "b": "ef gh", "y": label[row % len(label)]})
                for row in range(rows)
            ]
            (tmp_path / files[split]).write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}), encoding="utf-8")
    declared, output = str(tmp_path / "tasks.yaml"), str(tmp_path / "out")
    run("train", [*flags(encoder_path), "--tasks", declared, "--output_dir", output])
    said = capsys.readouterr().out
    assert max(map(len, (line for line in said.splitlines() if line.startswith("task-")))) <= 160
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["scores"]
    run("evaluate", [output, "--tasks", declared, "--output_dir", str(tmp_path / "scores")])
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[2:62:2]] == sorted(tasks)
    assert len({line.rindex(" ") for line in table[2:62] if "-0" not in line}) == 1  # one column under the other
    again = json.loads((tmp_path / "scores" / "metrics.json").read_text(encoding="utf-8"))["scores"]
    assert again == {name: pytest.approx({k: v for k, v in s.items() if k != "loss"}) for name, s in scores.items()}
    run("predict", [output, "--task", "task-29", "ab cd", "ef"])
    assert set(json.loads(capsys.readouterr().out)) == {"value"}
    predictor = Predictor.from_pretrained(output, "cpu")
    for name, task in tasks.items():
        (answer,) = predictor.predict(name, [("ab cd", "ef" if "text_b" in task["columns"] else None)])
        assert set(answer) == ({"value"} if task["problem"] == "regression" else {"label", "probabilities"})
        assert list(answer.get("probabilities", {})) == task.get("labels", ["no", "yes"] if "label" in answer else [])
