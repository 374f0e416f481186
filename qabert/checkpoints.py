"""Folders that are whole or absent: written beside their place, listed with sizes and checksums, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qabert.errors import InputError
from qabert.files import sync, whole_file

#: Sizes and SHA-256 of a folder's files; written last, so a folder that has it was written to its end.
CHECKSUMS = "checksums.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def write_checksums(folder: Path) -> None:
    """List the folder's files, those of inner folders too, in `checksums.json`, once they are safe on the disk."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": _digest(path)}
    with whole_file(folder / CHECKSUMS) as file:
        json.dump({"files": files}, file, indent=1)


def problem(folder: Path) -> str | None:
    """What is wrong with a folder by its `checksums.json`; None where every file is as it was written.

    Sizes are compared first: a cut file of gigabytes is found without reading one.
    """
    path = folder / CHECKSUMS
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        listed = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"it has no {CHECKSUMS}, so it was never written to its end"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{CHECKSUMS} can't be read"
    for name in listed:
        if os.path.isabs(name) or ".." in Path(name).parts:
            return f"{CHECKSUMS} names '{name}', which is outside of it"
    try:
        for name, (size, _) in listed.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if (found := (folder / name).stat().st_size) != size:
                return f"{name} has {found} bytes; expected {size}"
        for name, (_, digest) in listed.items():
            if _digest(folder / name) != digest:
                return f"{name} isn't what was written: its SHA-256 differs"
    except (OSError, ValueError) as error:
        return f"its files can't be read: {error}"
    return None


def verify(folder: Path) -> None:
    """Check a folder against its `checksums.json`; a folder without one (another program's) is taken as it is.

    Raises:
        InputError: A file is missing, cut or changed.
    """
    if os.path.lexists(folder / CHECKSUMS) and (found := problem(folder)) is not None:
        raise InputError(
            f"model '{folder}': {found}; restore the file, or delete {CHECKSUMS} if the change was meant to be"
        )


@contextmanager
def whole_folder(place: Path, main: bool = True, wait: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder to write, which takes the place of `place` only when all of it is written and on the disk.

    Args:
        place: Where it will be; what is there now stays until the new one is whole.
        main: Whether this process writes the list and renames; the others only write files of their own.
        wait: Waits for all processes.

    Yields:
        The folder beside `place` to write into.
    """
    part, old = (place.with_name(f".{place.name}.{kind}") for kind in ("part", "old"))
    if main:
        remove(part)
        part.mkdir(parents=True)
    wait()
    try:
        yield part
        wait()
        if main:
            write_checksums(part)
            sync(part)
            if place.exists():
                remove(old)
                place.rename(old)
            part.rename(place)
            sync(place.parent)
            remove(old)
    finally:
        if main:
            shutil.rmtree(part, ignore_errors=True)
    wait()


def remove(folder: Path) -> None:
    """Delete a folder in such a way that no half of it keeps its name."""
    if folder.exists():
        gone = folder.with_name(f".{folder.name.lstrip('.')}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def checkpoints(output: Path) -> list[Path]:
    """The `checkpoint-STEP` folders there are, oldest first."""
    steps = {path: _NAME.fullmatch(path.name) for path in output.glob("checkpoint-*") if path.is_dir()}
    found = [(int(match[1]), path) for path, match in steps.items() if match]
    return [path for _, path in sorted(found)]


def newest_whole(output: Path, tell: Callable[[str], None] = print) -> Path | None:
    """The newest checkpoint all of whose files are as they were written; a broken one is skipped and told of."""
    for path in reversed(checkpoints(output)):
        if (found := problem(path)) is None:
            return path
        tell(f"skipping {path}: {found}")
    return None


def rotate(output: Path, keep: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints until `keep` are left (None or 0: all stay); neither the newest nor the best."""
    found = checkpoints(output)
    spare = [path for path in found[:-1] if best is None or path.name != Path(best).name]
    for path in spare[: max(len(found) - keep, 0)] if keep else []:
        remove(path)


def clear_parts(output: Path) -> None:
    """Delete what an earlier process was killed over while it wrote or deleted a folder."""
    for path in output.glob(".*"):
        if path.is_dir() and path.name.endswith((".part", ".old", ".gone")):
            # Killed between two renames: the old folder is whole and has no successor.
            place = output / path.name[1:].removesuffix(".old")
            if path.name.endswith(".old") and not place.exists() and problem(path) is None:
                path.rename(place)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
