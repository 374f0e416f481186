"""Where rows come from: the hub, a folder of files, or the demo that comes with the package.

Every source ends in the same rows: `text_a`, `text_b`, `label` and `id` (see `load_task`).  Broken rows are skipped,
counted and named; a split of which more than 1 % is broken is refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qabert.data.cache import cached, rows_key
from qabert.data.cleaning import clean_rows
from qabert.data.readers import Row, check_columns, read_table
from qabert.errors import Gathered, InputError, suggest, unknown
from qabert.tasks import COLUMNS, SPLITS, Task

if TYPE_CHECKING:
    import datasets

#: Broken rows that are skipped, in percent of a split's rows, rounded; with more of them the split is refused.
MAX_BROKEN_PERCENT = 1
HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class Dropped:
    """One skipped row: where it starts and what is wrong with it."""

    file: str
    line: int
    column: str
    reason: str

    def __str__(self) -> str:
        column = f", column '{self.column}'" if self.column else ""
        return f"{self.file}, line {self.line}{column}: {self.reason}"


@dataclass
class TaskData:
    """A task's rows.

    Args:
        splits: The splits that exist.
        dropped: The skipped rows of each of them.
        read: How many rows each of them had, the skipped ones included.
        keys: The cache's key of those of them that can be cached; see `qabert.data.cache`.
    """

    splits: datasets.DatasetDict
    dropped: dict[str, list[Dropped]]
    read: dict[str, int]
    keys: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Table:
    """Rows of one split as a source has them: read anew by each call of `rows`, from the file `path` if it is one."""

    where: str
    rows: Callable[[], Iterable[Row]]
    columns: Mapping[str, str]
    path: Path | None = None


def load_data(
    tasks: Mapping[str, Task],
    data: str | Path | None,
    splits: Sequence[str] = ("train", "dev"),
    *,
    strict: bool = False,
    cache: bool = False,
) -> dict[str, TaskData]:
    """Load every task's rows; see `load_task`.

    Raises:
        InputError: Tasks' rows can't be loaded; the message has what is wrong with each file.
    """
    loaded, gathered = {}, Gathered()
    for name, task in tasks.items():
        # A hub that doesn't answer is asked once: each time takes half a minute.
        with nullcontext() if data == "hub" else gathered.one():
            loaded[name] = load_task(task, data, splits, strict=strict, cache=cache)
    gathered.tell()
    return loaded


def load_task(
    task: Task,
    data: str | Path | None,
    splits: Sequence[str] = ("train", "dev"),
    *,
    strict: bool = False,
    labelled: Sequence[str] = ("train", "dev"),
    cache: bool = False,
) -> TaskData:
    """Load a task's rows from where `data` says.

    Each split has the columns `text_a`, `text_b` (string; None for a task of single sentences), `label` (int64, or
    float64 for a regression; None where there is none) and `id` (string; `train-0` … where the source has none).

    Args:
        task: The task.
        data: `demo`, `hub`, or the folder that the task's `files` are relative to.  A task whose files have absolute
            paths (as those of a YAML file's own tasks do) brings them along, whatever `data` is.
        splits: The splits to load.  `test` is left out where the task declares no file for it.
        strict: Raise at the first broken row.
        labelled: Splits in which a row needs a label.  In others one is read where it is there and usable.
        cache: Keep the rows of files on disk, and read them from there the next time; see `qabert.data.cache`.

    Returns:
        The rows, the broken rows that were skipped, and how many rows were read.

    Raises:
        InputError: No such file, folder, dataset, split or column; a row is broken and `strict` is set; or more than
            1 % of a split's rows are broken.

    Example:
        >>> from qabert.tasks import SST
        >>> sorted(load_task(SST, "demo").splits)
        ['dev', 'train']
    """
    import datasets

    for split in splits:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
    data = _place(task, data)
    if data == "demo":
        tables = _from_demo(task, splits)
    elif data == "hub":
        tables = _from_hub(task, splits, labelled)
    else:
        tables = _from_folder(task, data, splits, labelled)
    loaded, gathered = TaskData(datasets.DatasetDict(), {}, {}), Gathered()
    for split, table in tables.items():
        with gathered.one():
            key = None
            if cache and table.path is not None:
                key = rows_key(task, split, table.path, split in labelled)
            loaded.splits[split], facts = _load_split(task, split, table, split in labelled, key)
            loaded.dropped[split] = [Dropped(table.where, *item) for item in facts["dropped"]]
            loaded.read[split] = facts["read"]
            _check_dropped(table.where, loaded.dropped[split], loaded.read[split], strict)
            if key is not None:
                loaded.keys[split] = key
    gathered.tell()
    return loaded


def _load_split(
    task: Task, split: str, table: _Table, needs_label: bool, key: str | None
) -> tuple[datasets.Dataset, Any]:
    """A split's rows, from the cache if they have a key, and what `clean_rows` says of them."""
    import datasets
    import pyarrow
    from datasets.arrow_writer import ArrowWriter

    label = datasets.Value("float64" if task.problem == "regression" else "int64")
    features = datasets.Features({name: datasets.Value("string") for name in COLUMNS} | {"label": label})

    def build(path: str) -> dict[str, Any]:
        with ArrowWriter(path=path, features=features) as writer:
            facts = clean_rows(task, split, table.rows(), table.columns, needs_label, writer)
        if rows_key(task, split, table.path, needs_label) != key:  # type: ignore[arg-type]
            raise OSError(f"{table.path} was changed while it was read")
        return facts

    if key is not None and (found := cached(key, build)) is not None:
        return found
    buffer = pyarrow.BufferOutputStream()
    with ArrowWriter(stream=buffer, features=features) as writer:
        facts = clean_rows(task, split, table.rows(), table.columns, needs_label, writer)
    return datasets.Dataset.from_buffer(buffer.getvalue()), facts


def _place(task: Task, data: str | Path | None) -> str | Path:
    """Where to look for the task's rows: the task's own place, if it has but one, wins over what was said for all."""
    if task.files and all(os.path.isabs(file) for file in task.files.values()):
        return Path(next(iter(task.files.values()))).parent
    if task.hub and not task.files:
        return "hub"
    if data is None:
        raise InputError(
            f"task '{task.name}': set data to the folder with its files, or to 'hub' or 'demo'; "
            "or give tasks as the YAML file that says where they are"
        )
    return data


def _from_folder(task: Task, data: str | Path, splits: Sequence[str], labelled: Sequence[str]) -> dict[str, _Table]:
    folder = Path(data)
    own = bool(task.files) and all(os.path.isabs(file) for file in task.files.values())
    if not own and not os.path.isdir(folder):  # unlike Path's, os.path's tests don't raise where there is no permission
        kind = "is a file" if os.path.exists(folder) else "no such folder"
        raise InputError(f"{folder}: {kind}; expected the folder of the task's files, or 'demo' or 'hub'")
    tables = {}
    for split in splits:
        if split in task.files:
            path = folder / task.files[split]
            if not os.path.exists(path):
                raise _missing_file(task, split, path)
            wanted, optional = _wanted(task.columns, split in labelled)
            read = partial(read_table, path, wanted, optional)
            tables[split] = _Table(str(path), read, task.columns, path)
        elif split != "test":
            raise InputError(f"task '{task.name}', key 'files': no file is declared for the split '{split}'")
    return tables


def _missing_file(task: Task, split: str, path: Path) -> InputError:
    where = f"{path}: no such file (task '{task.name}', key 'files', split '{split}')"
    try:
        names = sorted(entry.name for entry in os.scandir(path.parent) if entry.is_file())
    except OSError as error:
        return InputError(f"{where}; nor can the folder {path.parent} be listed: {error.strerror or error}")
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return InputError(f"{where}{suggest(path.name, names)}; the folder has: {listed or 'no files'}")


def _from_hub(task: Task, splits: Sequence[str], labelled: Sequence[str]) -> dict[str, _Table]:
    import datasets

    if "path" not in task.hub:
        raise InputError(f"task '{task.name}', key 'hub': no 'path' of a dataset; add it, or set data to a folder")
    path, name = task.hub["path"], task.hub.get("name")
    names = _hub_mapping(task, "splits", SPLITS)
    columns = {**task.columns, **_hub_mapping(task, "columns", COLUMNS)}
    place = f"hub dataset '{path}'" + (f" ({name})" if name else "")
    try:
        loaded = datasets.load_dataset(path, name)
    except Exception as error:  # the library has no common class for all that can go wrong on the way to the hub
        cause = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        raise InputError(
            f"{place} of task '{task.name}' can't be loaded; check its name, the network and HF_HUB_OFFLINE, or set "
            f"data to a folder of files ({cause})"
        ) from error
    tables = {}
    for split in splits:
        source = names.get(split, HUB_SPLITS[split])
        if source not in loaded:
            if split == "test" and split not in names:
                continue
            raise unknown("split", source, loaded, f"{place}, task '{task.name}', key 'hub', split '{split}'")
        where, rows = f"{place}, split '{source}'", loaded[source]
        wanted, optional = _wanted(columns, split in labelled)
        check_columns(where, rows.column_names, wanted, optional)
        if not rows.num_rows:
            raise InputError(f"{where}: no rows")
        rows = rows.select_columns([column for column in (*wanted, *optional) if column in rows.column_names])
        tables[split] = _Table(where, partial(_numbered, rows), columns)
    return tables


def _hub_mapping(task: Task, key: str, known: Sequence[str]) -> dict[str, str]:
    values = task.hub.get(key) or {}
    where = f"task '{task.name}', key 'hub', '{key}'"
    if not isinstance(values, Mapping) or not all(isinstance(value, str) for value in values.values()):
        raise InputError(f"{where}: expected a mapping of {', '.join(known)} to names; got {values!r}")
    for name in values:
        if name not in known:
            raise unknown("key", name, known, where)
    return dict(values)


def _from_demo(task: Task, splits: Sequence[str]) -> dict[str, _Table]:
    from qabert.data.demo import DEMO_TASKS, demo_rows

    if task.name not in DEMO_TASKS:
        names = ", ".join(DEMO_TASKS)
        raise InputError(f"task '{task.name}': the demo has rows for {names} only; set data to a folder or to 'hub'")
    columns = {"text_a": "text_a", "label": "label", "id": "id"} | ({"text_b": "text_b"} if task.pair else {})
    return {
        split: _Table(
            f"demo rows of '{task.name}', split '{split}'",
            partial(_numbered, demo_rows(task.name, split)),
            columns,
        )
        for split in splits
    }


def _numbered(rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    return (Row(number, row) for number, row in enumerate(rows, 1))


def _wanted(columns: Mapping[str, str], needs_label: bool) -> tuple[list[str], list[str]]:
    """Names of the columns that have to be there, and of those that may be."""
    needed = [key for key in ("text_a", "text_b", "label") if key in columns and (key != "label" or needs_label)]
    return [columns[key] for key in needed], [columns[key] for key in columns if key not in needed]


def _by_reason(dropped: Sequence[Dropped], most: int = 5) -> list[str]:
    """The first rows of up to `most` reasons; where there are fewer reasons, further rows."""
    counts = Counter((row.column, row.reason) for row in dropped)
    firsts = {(row.column, row.reason): row for row in reversed(dropped)}
    chosen = sorted(firsts.values(), key=lambda row: row.line)[:most]
    chosen += [row for row in dropped if row not in chosen][: most - len(chosen)]
    named: set[tuple[str, str]] = set()
    lines = []
    for row in sorted(chosen, key=lambda row: row.line):
        kind = (row.column, row.reason)
        lines.append(f"  {row}" + (f" ({counts[kind]} such rows)" if counts[kind] > 1 and kind not in named else ""))
        named.add(kind)
    return lines


def _check_dropped(where: str, dropped: Sequence[Dropped], read: int, strict: bool) -> None:
    if strict and dropped:
        raise InputError(f"{dropped[0]} ({len(dropped)} of {read} rows are broken, and strict is set)")
    if len(dropped) > (MAX_BROKEN_PERCENT * read + 50) // 100:  # rounded: one of 50 rows may be broken
        first = "\n".join(_by_reason(dropped))
        raise InputError(
            f"{where}: {len(dropped)} of {read} rows are broken, more than the {MAX_BROKEN_PERCENT} % that may be "
            f"skipped; the first of them:\n{first}"
        )
