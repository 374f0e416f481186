"""Files that are whole or absent."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from qabert.errors import InputError

#: A disk that is full, over its quota, or read-only; a file that may not be written, or not that long.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


@contextmanager
def whole_file(path: Path, binary: bool = False) -> Iterator[Any]:
    """A file to write, which takes the place of `path` only when all of it is written; a device is written to.

    Args:
        path: Where to; its folder is made.
        binary: Write bytes instead of text in UTF-8.

    Example:
        >>> with whole_file(Path("scores.txt")) as file:
        ...     _ = file.write("0.5")
    """
    open_file = partial(Path.open, mode="wb") if binary else partial(Path.open, mode="w", encoding="utf-8", newline="")
    if path.is_char_device() or path.is_fifo():  # such as /dev/stdout
        with open_file(path) as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open_file(part) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name with nothing in it
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _LineFeeds:
    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, line: str) -> None:
        self.file.write(line.removesuffix("\r\n") + "\n")


def csv_writer(file: TextIO) -> Any:
    r"""A `csv.writer` whose lines end in a line feed.

    Given `lineterminator="\n"`, that of Python before 3.13 leaves a lone carriage return in a text unquoted, and the
    row is read back as two.
    """
    return csv.writer(_LineFeeds(file), lineterminator="\r\n")


def check_place(path: Path, folder: bool = False) -> None:
    """Check that a file (or with `folder` a folder) can be written there, before work whose result it should hold.

    Raises:
        InputError: A folder stands where a file should, a file where a folder should, or there is no permission.
    """
    if os.path.exists(path) and os.path.isdir(path) != folder:
        found, wanted = ("a file", "a folder") if folder else ("a folder", "a file")
        raise InputError(f"{path}: is {found}; expected the name of {wanted} to write")
    try:
        os.lstat(path if folder else path.with_name(path.name + ".part"))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{path}: can't be written: its name is too long") from None
    place = path if folder else path.parent
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        raise InputError(f"{path}: can't be written, because {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{path}: can't be written: no permission in {place}")


def check_new_folder(place: Path) -> None:
    """Check that a folder can be written and would hold nothing else.

    Raises:
        InputError: It can't be written, or holds files.
    """
    check_place(place, folder=True)
    if place.is_dir() and any(place.iterdir()):
        raise InputError(f"{place} holds files already; choose another folder")
