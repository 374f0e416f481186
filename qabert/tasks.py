"""What is a task?  `Task`, and the paper's three.

A task is declared once and everything follows from it: how rows are read, how its prompt reads, which head and loss
it gets, which metrics judge it.  This module touches neither torch nor transformers, so it imports in milliseconds.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from qabert.errors import InputError, is_unicode, suggest, unknown

PROBLEMS = ("classification", "regression", "binary")
#: Metrics by problem; the first one counts towards the score that selects the best model.
METRICS = {
    "classification": ("accuracy", "macro_f1"),
    "binary": ("accuracy", "f1"),
    "regression": ("pearson", "spearman"),
}
COLUMNS = ("text_a", "text_b", "label", "id")
SPLITS = ("train", "dev", "test")
#: Labels are 32-bit floats in a model, and their differences are squared.
_MOST = 1e15
#: What people call some of the words above, and of the columns and splits.
_MEANT = {
    **dict.fromkeys(("multiclass", "multi-class", "multi_class", "multiclass_classification"), "classification"),
    **dict.fromkeys(("nli", "sentiment", "entailment", "single_label_classification"), "classification"),
    **dict.fromkeys(("binary_classification", "binary classification", "boolean", "bool", "yes/no"), "binary"),
    **dict.fromkeys(("similarity", "score", "rating", "number", "float"), "regression"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "development"), "dev"),
    **dict.fromkeys(("text", "sentence", "sentence1", "text1", "premise"), "text_a"),
    **dict.fromkeys(("text2", "sentence2", "hypothesis"), "text_b"),
    **{"training": "train", "target": "label", "class": "label", "acc": "accuracy"},
    **{"classes": "labels", "label_names": "labels", "prompt": "question", "type": "problem", "path": "files"},
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One sentence task.

    Args:
        name: Letters, digits, `_` and `-`; the name in flags, scores and files.
        problem: `classification` (any number of named labels), `binary` (two), or `regression` (a number in `range`).
        question: What the `qa` format asks about every row.
        context: How the row reads after the question, with `{text_a}` and, for a pair, `{text_b}`.
        labels: Label names in the order of their numbers; row labels may be written as names or as numbers.
        range: `(low, high)` of a regression's label, in the user's unit.
        columns: Column names of `text_a`, `text_b` (pairs only), `label` and, optionally, `id`.
        metrics: The first one is the task's score.
        files: File of each split, relative to the data folder (or to the YAML file that declares the task).
        hub: `path`, optional `name`, `splits` and `columns` of the task's dataset on the hub.
        ordered: Whether a classification's labels are grades, from low to high (see `Objective`).
        symmetric: Whether a pair means the same with its sentences exchanged.
        output: Name and column title of the course's submission files (`sst` writes `sst-dev-output.csv`).

    Raises:
        InputError: A field has a value that can't work; the message names task and field.
    """

    name: str
    problem: str
    question: str
    context: str = ""
    labels: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    hub: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = False
    symmetric: bool = False
    output: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InputError(
                f"task name {self.name!r}: expected a letter, then letters, digits, '_' or '-', at most 64"
            )
        if self.problem not in PROBLEMS:
            raise unknown("problem", self.problem, PROBLEMS, f"task '{self.name}'", _MEANT)
        columns = self._mapping("columns", COLUMNS)
        _set(
            self, "columns", {"text_a": "sentence1" if "text_b" in columns else "sentence", "label": "label"} | columns
        )
        read = [self.columns[key] for key in ("text_a", "text_b", "label") if key in self.columns]
        if len(set(read)) < len(read):
            raise self._error(
                "columns", f"two of text_a, text_b and label name one column of the rows: {dict(columns)}"
            )
        _set(self, "files", self._mapping("files", SPLITS))
        _set(self, "hub", self._mapping("hub", ("path", "name", "splits", "columns"), text=False))
        if not isinstance(self.question, str) or not self.question.strip():
            raise self._error("question", "expected a sentence that asks for the label")
        default = "First sentence: {text_a} Second sentence: {text_b}" if self.pair else "{text_a}"
        _set(self, "context", self.context or default)
        self._check_context()
        self._check_labels()
        self._check_kind()
        texts = [("question", self.question), ("context", self.context), *(("labels", name) for name in self.labels)]
        for key, text in texts:
            if not is_unicode(text):
                raise self._error(key, f"{text!r} holds half a surrogate pair; expected Unicode text")
        _set(self, "metrics", tuple(self.metrics) or METRICS[self.problem])
        for metric in self.metrics:
            if metric not in METRICS[self.problem] and not (metric == "macro_f1" and self.problem == "binary"):
                raise unknown("metric", metric, METRICS[self.problem], f"task '{self.name}', key 'metrics'", _MEANT)
        if self.output is not None:
            _set(self, "output", tuple(self.output))
            if len(self.output) != 2 or not all(isinstance(part, str) and part for part in self.output):
                raise self._error("output", f"expected [file's first part, column title]; got {list(self.output)}")
            if not _NAME.fullmatch(self.output[0]):
                raise self._error("output", f"'{self.output[0]}' can't be part of a file's name")

    @property
    def pair(self) -> bool:
        """Whether a row has two sentences."""
        return "text_b" in self.columns

    @property
    def num_outputs(self) -> int:
        """Width of the head's logits: one per class, or 1 for a regression and for a binary task."""
        return len(self.labels) if self.problem == "classification" else 1

    @property
    def score(self) -> str:
        """The metric that counts towards `eval_score`."""
        return self.metrics[0]

    def parse_label(self, value: object) -> int | float:
        """Turn a label as written (name, number or text of a number) into the one used in training.

        Returns:
            A class index for classification and binary tasks, a float in the user's unit for a regression.

        Raises:
            ValueError: It isn't a label of this task; the message says what was expected.
        """
        number = _number(value)
        if self.range is not None:
            low, high = self.range
            if number is None or not low <= number <= high:
                pointed = str(value).replace(",", ".")
                point = f" (write {pointed})" if _number(pointed) not in (number, None) else ""
                raise ValueError(f"label {value!r} is not a number from {low:g} to {high:g}{point}")
            return number
        text = value.strip() if isinstance(value, str) else value
        if text in self.labels:
            return self.labels.index(str(text))
        names_as_numbers = [_number(label) for label in self.labels]
        if number is not None and any(name is not None for name in names_as_numbers):
            # Labels such as 1, 2, 3: a number is then a name, however it is written (1, 1.0, "1"), and no position.
            if number in names_as_numbers:
                return names_as_numbers.index(number)
            raise ValueError(f"label {value!r} is none of {self._label_names()}")
        if number is None or number != int(number) or not 0 <= number < len(self.labels):
            last = len(self.labels) - 1
            near = self._near_label(text)
            raise ValueError(f"label {value!r} is none of {self._label_names()}, nor a number from 0 to {last}{near}")
        return int(number)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint carries: everything but the places on this machine (`files`) and on the hub."""
        values = dataclasses.asdict(self)
        return {key: _plain(values[key]) for key in values if key not in ("files", "hub") and values[key] is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "task") -> Task:
        """Build a task from plain values, as read from YAML or from a checkpoint's config.

        Raises:
            InputError: A key is unknown (the nearest one is suggested) or missing, or a value can't work.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("key", key, known, where, _MEANT)
        for key in ("name", "problem", "question"):
            if key not in values:
                raise InputError(f"{where}: key '{key}' is missing")
        cleaned = dict(values)
        for key in ("labels", "metrics", "output", "range"):
            if cleaned.get(key) is not None:
                if isinstance(cleaned[key], str | Mapping) or not isinstance(cleaned[key], Iterable):
                    raise InputError(f"{where}: key '{key}' has {cleaned[key]!r}; expected a list")
                cleaned[key] = tuple(cleaned[key])
            else:
                cleaned.pop(key, None)
        return cls(**cleaned)

    def _near_label(self, text: object) -> str:
        """The declared label that the text writes in other cases, gaps or signs, or nearly, as a question."""
        alike = [label for label in self.labels if _folded(label) == _folded(str(text))]
        return f" (did you mean '{alike[0]}'?)" if alike else suggest(str(text), self.labels)

    def _label_names(self) -> str:
        return ", ".join(self.labels[:8]) + (", …" if len(self.labels) > 8 else "")

    def _error(self, key: str, message: str) -> InputError:
        return InputError(f"task '{self.name}', key '{key}': {message}")

    def _check_kind(self) -> None:
        for key, fits, of in (
            ("ordered", self.problem == "classification", "a classification"),
            ("symmetric", self.pair, "rows with two sentences"),
        ):
            if not isinstance(getattr(self, key), bool):
                raise self._error(key, f"{getattr(self, key)!r}; expected true or false")
            if getattr(self, key) and not fits:
                raise self._error(key, f"only {of} can be {key}")

    def _mapping(self, key: str, known: Iterable[str], text: bool = True) -> dict[str, Any]:
        values = getattr(self, key)
        if not isinstance(values, Mapping):
            raise self._error(key, f"expected a mapping of {', '.join(known)}; got {values!r}")
        for name, value in values.items():
            if name not in known:
                raise unknown("key", name, known, f"task '{self.name}', key '{key}'", _MEANT)
            if text and not isinstance(value, str):
                raise self._error(key, f"'{name}' has {value!r}; expected text")
        return dict(values)

    def _check_context(self) -> None:
        if not isinstance(self.context, str):
            raise self._error("context", f"expected text; got {self.context!r}")
        try:
            # With a conversion or a format (`{text_a!r}`, `{text_a:9}`) a field is none of the two that are filled in.
            parts = [
                name if not (spec or conversion) else f"{name} with a format"
                for _, name, spec, conversion in Formatter().parse(self.context)
                if name is not None
            ]
        except ValueError as error:
            raise self._error("context", f"{self.context!r}: {error}") from None
        wanted = ["text_a", "text_b"] if self.pair else ["text_a"]
        if sorted(parts) != wanted:
            names = " and ".join(f"{{{name}}}" for name in wanted)
            raise self._error("context", f"{self.context!r} has to name {names} once each and nothing else in braces")

    def _check_labels(self) -> None:
        if self.problem == "regression":
            if self.labels:
                raise self._error("labels", "a regression has a range, no labels")
            bounds = tuple(_number(bound) for bound in (self.range or ()))
            if len(bounds) != 2 or bounds[0] is None or bounds[1] is None or not bounds[0] < bounds[1]:
                raise self._error("range", f"expected [low, high] with low < high; got {self.range!r}")
            if any(bound is not None and abs(bound) > _MOST for bound in bounds):
                raise self._error("range", f"{list(bounds)} is over what a model computes with: {_MOST:g}")
            _set(self, "range", bounds)
            return
        if self.range is not None:
            raise self._error("range", f"only a regression has a range; this is a {self.problem} task")
        # YAML reads a bare yes/no as a boolean: the name the user wrote is gone, so ask for quotes.
        for label in self.labels:
            if isinstance(label, bool) or not isinstance(label, str | int | float):
                hint = "YAML reads a bare yes, no, on, off, true, false or null as no text: write them in quotes"
                raise self._error("labels", f"label {label!r} is not text ({hint})")
        labels = tuple(str(label) for label in self.labels)
        if self.problem == "binary":
            labels = labels or ("no", "yes")
            if len(labels) != 2:
                raise self._error("labels", f"a binary task has two labels, the positive one second; got {len(labels)}")
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise self._error("labels", f"expected at least two different names; got {list(labels)}")
        _set(self, "labels", labels)


def _set(task: Task, key: str, value: object) -> None:
    object.__setattr__(task, key, value)  # the dataclass is frozen; this is its constructor's last part


def _folded(text: str) -> str:
    """Letters and digits alone, in lower case."""
    return "".join(character for character in text.casefold() if character.isalnum()) or text


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _number(value: object) -> float | None:
    """`value` as a finite float, or None where it isn't one."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_PAIR = {"text_a": "sentence1", "text_b": "sentence2"}

SST = Task(
    name="sst",
    problem="classification",
    question="Is this review positive or negative?",
    labels=("very negative", "negative", "neutral", "positive", "very positive"),
    ordered=True,
    columns={"text_a": "sentence", "label": "sentiment", "id": "id"},
    files={"train": "ids-sst-train.csv", "dev": "ids-sst-dev.csv", "test": "ids-sst-test-student.csv"},
    hub={"path": "SetFit/sst5", "columns": {"text_a": "text", "label": "label"}},
    output=("sst", "Predicted_Sentiment"),
)
STS = Task(
    name="sts",
    problem="regression",
    question="Is the first sentence semantically equivalent to the second sentence?",
    range=(0.0, 5.0),
    symmetric=True,
    columns=_PAIR | {"label": "similarity", "id": "id"},
    files={"train": "sts-train.csv", "dev": "sts-dev.csv", "test": "sts-test-student.csv"},
    hub={"path": "nyu-mll/glue", "name": "stsb", "columns": _PAIR | {"label": "label", "id": "idx"}},
    output=("sts", "Predicted_Similiary"),  # the course's own spelling, which its scorer reads
)
QUORA = Task(
    name="quora",
    problem="binary",
    question="Does the first question paraphrase the second question?",
    labels=("not a paraphrase", "paraphrase"),
    symmetric=True,
    columns=_PAIR | {"label": "is_duplicate", "id": "id"},
    files={"train": "quora-train.csv", "dev": "quora-dev.csv", "test": "quora-test-student.csv"},
    hub={
        "path": "nyu-mll/glue",
        "name": "qqp",
        "columns": {"text_a": "question1", "text_b": "question2", "label": "label", "id": "idx"},
    },
    output=("para", "Predicted_Is_Paraphrase"),
)
#: The paper's tasks in the paper's order (section 4.1).
PAPER_TASKS: dict[str, Task] = {task.name: task for task in (SST, STS, QUORA)}
