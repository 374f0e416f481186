"""The worst rows: by the loss of the label, whatever the problem."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest

from qabert.cli import main
from qabert.evaluation.mistakes import row_losses, worst_rows
from qabert.tasks import QUORA, SST, STS

ROWS = {"id": ["x", "y", "z"], "text_a": ["one", "two", "three"], "text_b": ["eins", "zwei", "drei"]}


@pytest.mark.parametrize(
    ("task", "labels", "answers", "losses", "order"),
    [
        (
            SST,
            [0, 4, 2],
            [[0.5, 0.5, 0, 0, 0], [0.9, 0, 0, 0, 0.1], [0, 0, 1, 0, 0]],
            [np.log(2), np.log(10), 0],
            "yxz",
        ),
        (QUORA, [1, 0, 0], [0.9, 0.8, 0.1], [-np.log(0.9), -np.log(0.2), -np.log(0.9)], "yxz"),
        (STS, [5.0, 1.0, 2.5], [4.0, 1.0, 5.0], [1, 0, 2.5], "zxy"),
    ],
    ids=["classification", "binary", "regression"],
)
def test_rows_are_ordered_by_how_wrong_their_answers_are(task, labels, answers, losses, order):
    given = np.array(answers)
    assert row_losses(task, labels, given) == pytest.approx(losses)
    rows = datasets.Dataset.from_dict(ROWS | {"label": labels})
    found = list(worst_rows(task, rows, given, 9))
    assert "".join(line["id"] for line in found) == order
    assert [line["id"] for line in worst_rows(task, rows, given, 1)] == [order[0]]
    assert ("text_b" in found[0]) == task.pair
    assert found[0]["text_a"] == ROWS["text_a"]["xyz".index(order[0])]


def test_the_command_prints_them(save_checkpoint, course_folder, tmp_path, capsys):
    folder = save_checkpoint(tmp_path / "m")
    main(["evaluate", folder, "--data", str(course_folder), "--worst", "3", "--device", "cpu"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["task"] for line in lines] == ["sst"] * 3 + ["sts"] * 3 + ["quora"] * 3
    assert lines[0]["loss"] >= lines[1]["loss"] >= lines[2]["loss"] > 0
    assert lines[0]["label"] in SST.labels and lines[0]["label"] != lines[0]["answer"]
