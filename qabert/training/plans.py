"""A plan: the arms that a reproduction trains side by side, read from YAML and checked before anything runs.

An *arm* is a recipe: the plan's settings with the few keys that this arm changes.  `question: shuffled` asks the tasks'
questions in a variant that the plan declares.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qabert.errors import InputError, unknown
from qabert.task_files import load_tasks
from qabert.tasks import Task
from qabert.training.arguments import RunArguments
from qabert.training.recipes import from_keys
from qabert.yaml_files import read_yaml

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a reproduction runs.

    Args:
        settings: Keys of a recipe that all arms share.
        arms: By name, the keys in which an arm differs, and `question`: a variant of `questions` to train with.
        seeds: Every arm is trained once with each.
        notes: A line on an arm, for the report.
        paper: Which of the paper's models an arm stands for.
        compare: Pairs of arms whose differences the report shows.
        questions: By variant and task, another text for the task's question.  They are also asked, at test time, of the
            arms that were trained with the tasks' own questions.
        question_rows: Dev rows a task for that, a fixed random choice; None means all.
        saliency: `rows` (dev rows a task) and `arms` whose saliency is measured.

    Raises:
        InputError: A value can't work; the message names the key.
    """

    settings: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int] = (1,)
    notes: Mapping[str, str] = field(default_factory=dict)
    paper: Mapping[str, str] = field(default_factory=dict)
    compare: Sequence[Sequence[str]] = ()
    questions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    question_rows: int | None = None
    saliency: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, kind in (("settings", Mapping), ("arms", Mapping), ("notes", Mapping), ("paper", Mapping),
                          ("questions", Mapping), ("saliency", Mapping), ("seeds", list | tuple),
                          ("compare", list | tuple)):  # fmt: skip
            if not isinstance(getattr(self, key), kind):
                wanted = "a mapping" if kind is Mapping else "a list"
                raise InputError(f"key '{key}' has {getattr(self, key)!r}; expected {wanted}")
        data = self.settings.get("data")
        if data is not None and not isinstance(data, str):
            raise InputError(f"key 'settings', 'data' has {data!r}; expected text")
        if not self.arms:
            raise InputError("key 'arms': no arm is declared")
        for arm, keys in self.arms.items():
            if not _NAME.fullmatch(str(arm)):
                raise InputError(f"key 'arms': {arm!r} is no name: expected a letter, then letters, digits, '_' or '-'")
            if not isinstance(keys, Mapping):
                raise InputError(f"arm '{arm}': expected 'key: value' lines, got {keys!r}")
            if (variant := keys.get("question")) is not None and not _is_in(variant, self.questions):
                raise unknown("question", variant, self.questions, f"arm '{arm}'")
        whole = [isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in self.seeds]
        if not whole or not all(whole) or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"key 'seeds' has {list(self.seeds)!r}; expected different whole numbers from 0")
        shown = self.saliency.get("arms") or []
        if not isinstance(shown, list | tuple):
            raise InputError(f"key 'saliency, 'arms'' has {shown!r}; expected a list")
        named: list[tuple[str, Any]] = [("notes", self.notes), ("paper", self.paper), ("saliency, 'arms'", shown)]
        for pair in self.compare:
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise InputError(f"key 'compare': {pair!r}; expected pairs of arms, such as [baseline, qa]")
            named.append(("compare", pair))
        for key, names in named:
            for name in names:
                if not _is_in(name, self.arms):
                    raise unknown("arm", name, self.arms, f"key '{key}'")
        for key in self.saliency:
            if key not in ("rows", "arms"):
                raise unknown("key", key, ("rows", "arms"), "key 'saliency'")
        for key, rows in (("question_rows", self.question_rows), ("saliency, 'rows'", self.saliency.get("rows"))):
            if rows is not None and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 1):
                raise InputError(f"key '{key}' has {rows!r}; expected a whole number over 0")
        self._check_questions()

    def _check_questions(self) -> None:
        tasks = self.tasks()
        for variant, questions in self.questions.items():
            if not isinstance(questions, Mapping):
                raise InputError(f"key 'questions', '{variant}': expected a question by task, got {questions!r}")
            for task, question in questions.items():
                if task not in tasks:
                    raise unknown("task", task, tasks, f"key 'questions', '{variant}'")
                if not isinstance(question, str) or not question.strip():
                    raise InputError(f"key 'questions', '{variant}', '{task}': {question!r}; expected text")

    def tasks(self) -> dict[str, Task]:
        """The tasks, with their own questions."""
        return load_tasks(self.settings.get("tasks"))

    def recipe(self, arm: str, seed: int) -> dict[str, Any]:
        """The keys of one training run, but for its `output_dir`."""
        keys = dict(self.arms[arm])
        variant = keys.pop("question", None)
        if variant is not None:
            questions = self.questions[variant]
            keys["tasks"] = {
                name: _declaration(task) | {"question": questions.get(name, task.question)}
                for name, task in self.tasks().items()
            }
        recipe: dict[str, Any] = json.loads(json.dumps({**self.settings, **keys, "seed": seed}))
        return recipe

    def arguments(self, arm: str, seed: int, output: Path) -> RunArguments:
        """The arguments of one training run.

        Raises:
            InputError: A key is unknown or has a value that can't work; the message names the arm.
        """
        try:
            return from_keys(self.recipe(arm, seed) | {"output_dir": str(output)})
        except InputError as error:
            raise InputError(f"arm '{arm}': {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def read_plan(path: Path, settings: Mapping[str, Any], seeds: Sequence[int] | None = None) -> Plan:
    """Read a plan.

    Args:
        path: A YAML file with the keys of `Plan`.
        settings: Settings that win over the file's.
        seeds: Seeds instead of the file's.

    Raises:
        InputError: The file or one of its keys can't be used, or a setting is one that an arm sets itself.
    """
    values = read_yaml(path)
    known = [item.name for item in dataclasses.fields(Plan)]
    for key in values:
        if key not in known:
            raise unknown("key", key, known, str(path))
    for key in ("settings", "arms"):
        if key not in values:
            raise InputError(f"{path}: key '{key}' is missing")
    for key in settings:
        if key in ("seed", "output_dir", "resume", "overwrite"):
            raise InputError(f"key '{key}' is each run's own: see --seeds and --output_dir")
        arms = values["arms"] if isinstance(values["arms"], Mapping) else {}  # what else it is, `Plan` refuses
        for arm, keys in arms.items():
            if isinstance(keys, Mapping) and key in keys:
                raise InputError(f"key '{key}' is what the arm '{arm}' of {path} sets: edit the file instead")
    if isinstance(values["settings"], Mapping):
        values["settings"] = {**values["settings"], **settings}
    if seeds is not None:
        values["seeds"] = list(seeds)
    try:
        return Plan(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _is_in(name: object, known: Collection[str]) -> bool:
    return isinstance(name, str) and name in known  # a list is no key, and asking whether it is raises


def _declaration(task: Task) -> dict[str, Any]:
    """A task as a recipe declares it."""
    values = dataclasses.asdict(task)
    values.pop("name")
    return {key: value for key, value in values.items() if value not in (None, (), {})}


def changed_key(before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = ()) -> str | None:
    """The first key in which two recipes differ, or None."""
    for key in sorted({*before, *now} - set(free)):
        if before.get(key) != now.get(key):
            return key
    return None
