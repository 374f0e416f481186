"""Rows and features that are kept on disk between runs, under `HF_DATASETS_CACHE/qabert`.

An entry is a folder with one Arrow file, which is memory-mapped: its rows cost no memory of the process.  It is

- never stale: its name is a hash of all that its content follows from: the data file's bytes, the task, the format,
  the tokenizer, the code that reads and encodes, and the versions of what that code calls;
- whole or absent: written under another name, then renamed; one that was damaged since is noticed and made anew;
- never needed: where it can't be read or written, rows are read and encoded in memory, and one line says so.

What is cached are files of a folder.  The hub's rows are cached by `datasets`, without a hash of their content that
features could be kept by, and small files are read in no time.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
import uuid
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qabert.data.prompts import FORMATS, PromptEncoder
from qabert.files import sync
from qabert.tasks import Task

if TYPE_CHECKING:
    import datasets

#: Bytes of a data file below which reading and encoding it anew takes less than half a second.
SMALLEST = 2**16
#: Bytes of all entries; above them the least recently used are deleted, but none that was used within `KEPT` seconds.
MOST = 4 * 2**30
KEPT = 24 * 3600
#: How long to wait for another process that makes the same entry, in seconds.
PATIENCE = 3600
ARROW, RECORD = "data.arrow", "entry.json"
_PART = "part-"
#: What rows and features follow from, besides their source; hashed when it is imported, as it may be edited later.
_CODE = (
    *("errors.py", "tasks.py"),
    *(f"data/{name}.py" for name in ("cache", "cleaning", "prompts", "readers", "sources")),
)
_LIBRARIES = ("datasets", "pyarrow", "tokenizers", "transformers")


def _code_digest() -> str | None:
    try:
        return _digest([(Path(__file__).parents[1] / name).read_text(encoding="utf-8") for name in _CODE])
    except (OSError, UnicodeDecodeError):  # no source is installed, so a change of it couldn't be noticed
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


_CODE_DIGEST = _code_digest()


@functools.cache
def _versions() -> list[str]:
    return [platform.python_version(), *(version(name) for name in _LIBRARIES)]


def rows_key(task: Task, split: str, path: Path, needs_label: bool) -> str | None:
    """The key of a split's rows, or None where they are not to be cached.

    Args:
        task: The rows' task; of `files` and `hub` only what `path` holds counts.
        split: The split, which the ids of rows without one are made of.
        path: The data file, which is read whole.
        needs_label: Whether a row without a label is a broken one.
    """
    import datasets

    try:
        if _CODE_DIGEST is None or not datasets.is_caching_enabled():
            return None
        if not path.is_file() or path.stat().st_size < SMALLEST:  # a pipe can't be read twice
            return None
        content = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                content.update(block)
    except (OSError, ValueError):  # who reads the rows says what is wrong with their file
        return None
    declared = dataclasses.asdict(task) | {"files": None, "hub": None}
    told = [declared, split, path.suffix.lower(), needs_label, csv.field_size_limit()]
    return _digest(["rows", content.hexdigest(), told, _CODE_DIGEST, _versions()])


def _features_key(rows: str, encoder: PromptEncoder) -> str | None:
    """The key of the features of the rows with the key `rows`, or None where they are not to be cached."""
    tokenizer = encoder.tokenizer
    # Other code than that whose source or version is part of the key could change without a new key.
    if type(encoder) is not PromptEncoder or not type(tokenizer).__module__.startswith("transformers."):
        return None
    if getattr(FORMATS[encoder.input_format], "__module__", None) != PromptEncoder.__module__:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    try:
        content = backend.to_str()  # type: ignore[union-attr]
    except Exception:  # there is none, or it has parts in Python, which can't be written down
        return None
    settings: dict[str, Any] = {
        name: value
        for name, value in vars(tokenizer).items()
        if isinstance(value, str | int | float | None) and name != "name_or_path" and not name.endswith("_file")
    }
    settings |= {"inputs": list(tokenizer.model_input_names), "special": list(map(str, tokenizer.all_special_tokens))}
    told = [encoder.input_format, encoder.max_length, dataclasses.asdict(encoder.task) | {"files": None, "hub": None}]
    if encoder.exchanged:
        told.append("exchanged")
    return _digest(["features", rows, told, type(tokenizer).__name__, content, settings])


def encode(rows: datasets.Dataset, encoder: PromptEncoder, key: str | None, title: str) -> datasets.Dataset:
    """Features of a split's rows; see `PromptEncoder`.

    Args:
        rows: The rows.
        encoder: What they are encoded with.
        key: The key of the rows (see `TaskData.keys`); None keeps the features in memory.
        title: What the progress bar is called.
    """
    told: dict[str, Any] = {"batched": True, "remove_columns": rows.column_names, "desc": title}

    def build(path: str) -> None:
        rows.map(encoder, **told, cache_file_name=path, load_from_cache_file=False, new_fingerprint=uuid.uuid4().hex)

    features_key = None if key is None else _features_key(key, encoder)
    if features_key is not None and (found := cached(features_key, build)) is not None:
        return found[0]
    # In memory: `map` would else keep a file of its own beside the rows', by a key that isn't ours.
    return rows.map(encoder, **told, keep_in_memory=True, load_from_cache_file=False, new_fingerprint=uuid.uuid4().hex)


def cached(key: str, build: Callable[[str], Any]) -> tuple[datasets.Dataset, Any] | None:
    """An entry's rows, made first if there is no such entry.  Of several processes one makes it and the others wait.

    Args:
        key: The entry's name, 64 hexadecimal digits.
        build: Writes an Arrow file to the path that it is given and returns facts that JSON can hold.  An `OSError`
            that it raises means that there is no entry; anything else is passed on.

    Returns:
        The rows, memory-mapped, and the facts; or None where the cache can't be used.
    """
    import datasets
    import filelock

    root = Path(datasets.config.HF_DATASETS_CACHE) / "qabert"
    folder = root / key
    try:
        if (found := _read(folder)) is None:
            root.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(root / f"{key}.lock", timeout=PATIENCE):
                if (found := _read(folder)) is None:
                    _write(folder, build)
                    found = _read(folder)
                    with suppress(OSError):
                        _tidy(root)
        if found is None:
            raise OSError("what was written can't be read again")
    except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
        _say(f"rows aren't cached: {root}: {getattr(error, 'strerror', None) or error}")
        return None
    return found


def _read(folder: Path) -> tuple[datasets.Dataset, Any] | None:
    """An entry's rows and facts, or None where it isn't there, isn't whole or isn't what its name says."""
    import datasets

    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        body = record["body"]
        if record["sha256"] != _digest(body) or body["key"] != folder.name:
            return None
        if [body["bytes"], body["checksum"]] != _checksum(folder / ARROW):
            return None
        rows = datasets.Dataset.from_file(str(folder / ARROW))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    with suppress(OSError):  # a cache that others fill can be read, too
        os.utime(folder / RECORD)  # when it was last used
    return rows, body["facts"]


def _write(folder: Path, build: Callable[[str], Any]) -> None:
    part = folder.with_name(f"{_PART}{uuid.uuid4().hex}")
    part.mkdir()
    try:
        facts = build(str(part / ARROW))
        size, checksum = _checksum(part / ARROW)
        body = {"key": folder.name, "bytes": size, "checksum": checksum, "facts": facts}
        (part / RECORD).write_text(json.dumps({"sha256": _digest(body), "body": body}), encoding="utf-8")
        for place in (part / ARROW, part / RECORD, part):
            sync(place)
        if _read(folder) is None:  # else another process was first, where locks don't lock
            shutil.rmtree(folder, ignore_errors=True)  # one that is damaged
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _checksum(path: Path) -> list[int]:
    """Size and CRC-32 of a file: damage is looked for, not malice, and it takes a third of a second per GB."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def _tidy(root: Path) -> None:
    """Delete what killed processes left, and the least recently used entries where there is too much."""
    now, total = time.time(), 0
    entries = []
    for place in sorted(root.iterdir()):
        files = [*place.glob("*"), place] if place.is_dir() else [place]
        try:
            states = [file.stat() for file in files]
        except OSError:  # another process deletes it
            continue
        changed = max(state.st_mtime for state in states)
        if re.fullmatch("[0-9a-f]{64}", place.name):
            entries.append((changed, sum(state.st_size for state in states), place))
            total += entries[-1][1]
        elif place.name.startswith(_PART) and now - changed > KEPT:
            shutil.rmtree(place, ignore_errors=True)
        elif place.suffix == ".lock" and now - changed > KEPT and not place.with_suffix("").exists():
            place.unlink(missing_ok=True)
    for used, size, place in sorted(entries):
        if total <= MOST or now - used <= KEPT:
            break
        shutil.rmtree(place, ignore_errors=True)
        total -= size


_said: set[str] = set()


def _say(line: str) -> None:
    """Once, and by one of several processes; not to stdout, where a run prints the same with and without a cache."""
    if not _said and os.environ.get("RANK", "0") == "0":
        print(f"note: {line}", file=sys.stderr)
    _said.add(line)
