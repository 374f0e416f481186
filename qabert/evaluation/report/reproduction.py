"""A reproduction's folder, read back: arms (ways to train) with several seeds each, judged on the same dev rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qabert.answers import decide
from qabert.errors import InputError, unknown
from qabert.evaluation.metrics import METRIC_FUNCTIONS
from qabert.tasks import Task
from qabert.yaml_files import read_yaml

#: Predictions are written with 4 to 6 decimals; a score computed from them may differ by this much from the run's own.
ROUNDING = 2e-3


@dataclass(frozen=True)
class Predictions:
    """One task's answers to dev rows, as `answers.write_predictions` wrote them.

    Args:
        ids: The rows' names.
        labels: Class indices or numbers in the task's unit, shape `(rows,)`; None where the file has no labels.
        answers: Probabilities `(rows, classes)`, probability of the second label `(rows,)`, or values `(rows,)`.
    """

    ids: list[str]
    labels: np.ndarray | None
    answers: np.ndarray


@dataclass(frozen=True)
class Run:
    """One finished training: its `metrics.json`, tasks, dev predictions, and the analyses (empty where absent)."""

    arm: str
    seed: int
    metrics: dict[str, Any]
    tasks: dict[str, Task]
    predictions: dict[str, Predictions]
    questions: dict[str, Any]
    saliency: dict[str, Any]
    triplet: dict[str, Any]


@dataclass(frozen=True)
class Reproduction:
    """What `OUT/reproduction.yaml` declares and which of its runs are finished.

    Args:
        folder: OUT.
        command: The command line that made it.
        seeds: The seeds of each arm.
        settings: Keys of the recipe that all arms share.
        arms: Keys that differ, by arm.
        compare: Pairs `(a, b)` of arms; their difference is b − a.
        questions: Test-time questions by variant and task.
        notes: A line about an arm.
        paper: The paper's name of an arm's model.
        runs: Finished runs by arm (in the order of `arms`; those without a run are left out) and seed.
        missing: Arms and seeds without a finished run.
        tasks: Every task of any run, with the question of the first run that has it.
        labels: True labels of each task's dev rows, the same in every run.
        fingerprints: File, SHA-256 and rows by task and split.
        texts: The rows' sentences by task and id, where known.
    """

    folder: Path
    command: str
    seeds: list[int]
    settings: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    compare: list[tuple[str, str]]
    questions: dict[str, Any]
    notes: dict[str, str]
    paper: dict[str, str]
    runs: dict[str, dict[int, Run]]
    missing: list[tuple[str, int]]
    tasks: dict[str, Task]
    labels: dict[str, np.ndarray]
    fingerprints: dict[str, Any]
    texts: dict[str, Any]


def read_predictions(path: Path, task: Task) -> Predictions:
    """The inverse of `answers.write_predictions`, up to its rounding (4 decimals of a value, 6 of a probability).

    `answers.decide` of the answers gives the file's predictions, also where rounding made two probabilities equal.

    Raises:
        InputError: The file is absent, damaged, or another task's; the message names file and line.
    """
    lines = _csv_lines(path)
    head = lines[0][1] if lines else []
    shares = [f"p({label})" for label in task.labels]
    labelled = "label" in head[1:2]
    wanted = ["id", *(["label"] if labelled else []), "prediction", *shares]
    if head != wanted:
        raise InputError(f"{path}: its columns are {head}; expected {wanted} for task '{task.name}'")
    if len(lines) == 1:
        raise InputError(f"{path}: there are no rows")
    for number, cells in lines:
        if len(cells) != len(wanted):
            raise InputError(f"{path}, line {number}: has {len(cells)} columns; expected {len(wanted)}")
    rows = lines[1:]
    labels = _column(path, task, rows, 1) if labelled else None
    predicted = _column(path, task, rows, 1 + labelled)
    if task.problem == "regression":
        return Predictions([cells[0] for _, cells in rows], labels, predicted)
    first = 2 + labelled
    answers = np.stack([_numbers(path, rows, column) for column in range(first, len(wanted))], axis=-1)
    off = np.flatnonzero((answers.min(-1) < 0) | (np.abs(answers.sum(-1) - 1) > 1e-3))
    if len(off):
        raise InputError(f"{path}, line {rows[off[0]][0]}: its probabilities are no shares of 1")
    # A tie after rounding goes to the label that the unrounded answer preferred.
    chosen = answers[np.arange(len(rows)), predicted]
    off = np.flatnonzero(answers.max(-1) - chosen > 2e-6)
    if len(off):
        raise InputError(f"{path}, line {rows[off[0]][0]}: the prediction isn't the likeliest label")
    answers[np.arange(len(rows)), predicted] = np.maximum(answers.max(-1) + 1e-9, chosen)
    if task.problem == "binary":
        answers = answers[:, 1]
    return Predictions([cells[0] for _, cells in rows], labels, answers)


def read_reproduction(folder: Path) -> Reproduction:
    """Read OUT: what was to be run, and what of it is finished.

    Raises:
        InputError: `reproduction.yaml` or a file of a finished run is damaged, no run is finished, or two runs were
            judged on different rows, so that they can't be compared.
    """
    place = folder / "reproduction.yaml"
    declared = read_yaml(place)
    arms = {str(arm): keys or {} for arm, keys in _mapping(place, declared, "arms").items()}
    seeds = declared.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(f"{place}: key 'seeds' has {seeds!r}; expected a list of whole numbers")
    pairs = declared.get("compare") or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{place}: key 'compare' has {pairs!r}; expected a list of [arm, arm]")
    named = {key: _mapping(place, declared, key) for key in ("settings", "questions", "notes", "paper")}
    compared = [name for pair in pairs for name in pair]
    for key, names in (("compare", compared), ("notes", named["notes"]), ("paper", named["paper"])):
        for name in names:
            if name not in arms:
                raise unknown("arm", name, arms, f"{place}, key '{key}'")
    runs: dict[str, dict[int, Run]] = {}
    missing = []
    for arm in arms:
        for seed in seeds:
            run = _read_run(folder / "arms" / arm / f"seed-{seed}", arm, seed)
            if run is None:
                missing.append((arm, seed))
            else:
                runs.setdefault(arm, {})[seed] = run
    if not runs:
        raise InputError(f"{folder}: none of its runs is finished; expected arms/ARM/seed-N/metrics.json")
    tasks, labels = _shared_rows([run for by_seed in runs.values() for run in by_seed.values()])
    return Reproduction(
        folder=folder,
        command=str(declared.get("command") or ""),
        seeds=seeds,
        settings=named["settings"],
        arms=arms,
        compare=[(a, b) for a, b in pairs],
        questions=named["questions"],
        notes={arm: str(note) for arm, note in named["notes"].items()},
        paper={arm: str(model) for arm, model in named["paper"].items()},
        runs=runs,
        missing=missing,
        tasks=tasks,
        labels=labels,
        fingerprints=read_json(folder / "fingerprints.json"),
        texts=read_json(folder / "rows.json"),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file.

    Raises:
        InputError: The file is damaged, or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: can't be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def _read_run(folder: Path, arm: str, seed: int) -> Run | None:
    metrics = read_json(folder / "metrics.json")
    if not metrics:  # a run writes it last
        return None
    place = f"{folder / 'metrics.json'}"
    declared = metrics.get("arguments", {}).get("tasks") if isinstance(metrics.get("arguments"), dict) else None
    if not isinstance(declared, dict) or not isinstance(metrics.get("scores"), dict):
        raise InputError(f"{place}: expected 'scores' and 'arguments' with 'tasks', as training writes them")
    tasks = {name: Task.from_dict(values, f"{place}, task '{name}'") for name, values in declared.items()}
    predictions = {}
    for name, task in tasks.items():
        path = folder / "predictions" / f"{name}-dev.csv"
        predictions[name] = read_predictions(path, task)
        labels = predictions[name].labels
        if labels is None:
            raise InputError(f"{path}: has no column 'label', so nothing can be compared")
        for metric in task.metrics:
            score = METRIC_FUNCTIONS[metric](decide(task, predictions[name].answers), labels)
            said = metrics["scores"].get(name, {}).get(metric)
            if not isinstance(said, int | float) or not abs(score - said) <= ROUNDING:
                raise InputError(f"{path}: its {metric} is {score:.4f}, but {place} says {said}: not of the same run")
    return Run(
        arm=arm,
        seed=seed,
        metrics=metrics,
        tasks=tasks,
        predictions=predictions,
        questions=read_json(folder / "questions.json"),
        saliency=read_json(folder / "saliency.json"),
        triplet=read_json(folder / "triplet" / "metrics.json"),
    )


def _shared_rows(runs: Sequence[Run]) -> tuple[dict[str, Task], dict[str, np.ndarray]]:
    """Every task and its labels, after a check that all runs with that task were judged alike."""
    tasks: dict[str, Task] = {}
    first: dict[str, Run] = {}
    for run in runs:
        for name, task in run.tasks.items():
            known = tasks.setdefault(name, task)
            other = first.setdefault(name, run)
            here = f"arm '{run.arm}', seed {run.seed}, task '{name}'"
            there = f"those of arm '{other.arm}', seed {other.seed}"
            if (task.problem, task.labels, task.range, task.metrics) != (
                known.problem,
                known.labels,
                known.range,
                known.metrics,
            ):
                raise InputError(f"{here}: its labels or metrics differ from {there}: they can't be compared")
            one, two = run.predictions[name], other.predictions[name]
            if one.ids != two.ids or not np.array_equal(np.asarray(one.labels), np.asarray(two.labels)):
                raise InputError(f"{here}: its dev rows differ from {there}: they can't be compared")
    return tasks, {name: np.asarray(first[name].predictions[name].labels) for name in tasks}


def _csv_lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV file in UTF-8: {error}") from None


def _column(path: Path, task: Task, rows: Sequence[tuple[int, list[str]]], column: int) -> np.ndarray:
    """Labels or predictions: class indices by name, or numbers."""
    if task.problem == "regression":
        return _numbers(path, rows, column)
    numbers = {label: number for number, label in enumerate(task.labels)}
    for line, cells in rows:
        if cells[column] not in numbers:
            raise unknown("label", cells[column], numbers, f"{path}, line {line}")
    return np.array([numbers[cells[column]] for _, cells in rows], dtype=np.int64)


def _numbers(path: Path, rows: Sequence[tuple[int, list[str]]], column: int) -> np.ndarray:
    values = []
    for line, cells in rows:
        try:
            values.append(float(cells[column]))
        except ValueError:
            raise InputError(f"{path}, line {line}: {cells[column]!r} is no number") from None
    numbers = np.array(values)
    off = np.flatnonzero(~np.isfinite(numbers))
    if len(off):
        raise InputError(f"{path}, line {rows[off[0]][0]}: {rows[off[0]][1][column]!r} is no finite number")
    return numbers


def _mapping(place: Path, values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise InputError(f"{place}: key '{key}' has {found!r}; expected a mapping")
    return found
