"""Tasks by what a recipe or a flag says of them: names, a mapping, a YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qabert.errors import InputError, unknown
from qabert.tasks import PAPER_TASKS, Task
from qabert.yaml_files import read_yaml


def parse_tasks(
    declared: Mapping[str, Any], where: str, folder: Path | None = None, known: Mapping[str, Task] | None = None
) -> dict[str, Task]:
    """Tasks from the `tasks:` mapping of a YAML file: `{name: {problem: …, question: …, …}}`.

    A name of one of the paper's tasks with nothing after it means that task; with keys, they change it.

    Args:
        declared: The mapping.
        where: What to call its place in errors.
        folder: Folder that relative `files` are meant from; None leaves them relative to `--data`.
        known: Tasks that a trained model has: their names mean them, as those of the paper's tasks do.
    """
    tasks: dict[str, Task] = {}
    bases = {name: dataclasses.asdict(task) for name, task in PAPER_TASKS.items()}
    for name, task in (known or {}).items():
        bases[name] = bases.get(name, {}) | task.to_dict()
    for name, values in declared.items():
        place = f"{where}, task '{name}'"
        if not isinstance(values, Mapping | None):
            raise InputError(f"{place}: expected 'key: value' lines, got {values!r}")
        values = dict(values or {})
        if not values and name not in bases:
            raise unknown("task", name, bases, where)
        if folder is not None and isinstance(values.get("files"), Mapping):
            if any(file == "" for file in values["files"].values()):
                raise InputError(f"{place}, key 'files': a file's name is empty")
            # What is no text stays as it is, for the task to refuse.
            values["files"] = {
                split: str(folder / file) if isinstance(file, str) else file for split, file in values["files"].items()
            }
        values = {key: value for key, value in bases.get(name, {}).items() if value is not None} | values
        try:
            tasks[name] = Task.from_dict(values | {"name": name}, place)
        except InputError as error:
            if folder is None or str(error).startswith(where):
                raise
            raise InputError(f"{where}: {error}") from None
    if not tasks:
        raise InputError(f"{where}: no task is declared")
    return tasks


def load_tasks(
    spec: str | Iterable[str] | Mapping[str, Any] | None, where: str = "tasks", known: Mapping[str, Task] | None = None
) -> dict[str, Task]:
    """Tasks by what a recipe or a flag says: names of the paper's (`sst,sts`) or of `known`, a YAML file, or a mapping.

    Raises:
        InputError: An unknown name or key, or a declaration that can't work.
    """
    if spec is None:
        return dict(PAPER_TASKS)
    if isinstance(spec, Mapping):
        return parse_tasks(spec, where, known=known)
    listed = spec.split(",") if isinstance(spec, str) else list(spec) if isinstance(spec, Iterable) else [spec]
    if not all(isinstance(name, str) for name in listed):
        raise InputError(f"{where}: got {spec!r}; expected names of tasks, a YAML file or a mapping")
    names = [name.strip() for name in listed]
    if len(names) == 1 and names[0].endswith((".yaml", ".yml")):
        path = Path(names[0])
        values = read_yaml(path)
        if set(values) != {"tasks"}:
            indent = "; indent them under it" if "tasks" in values else ""
            raise InputError(
                f"{path}: expected one key, 'tasks:', with the tasks under it; got {sorted(values)}{indent}"
            )
        if not isinstance(values["tasks"], Mapping):
            got = "nothing" if values["tasks"] is None else f"a {type(values['tasks']).__name__}"
            raise InputError(
                f"{path}: expected one key, 'tasks:', with the tasks under it, 'NAME:' and the task's own lines "
                f"indented below it; got {got}"
            )
        return parse_tasks(values["tasks"], str(path), path.parent.resolve(), known)
    if len(set(names)) < len(names):
        raise InputError(f"{where}: a task is named twice in {names}")
    return parse_tasks(dict.fromkeys(names), where, known=known)
