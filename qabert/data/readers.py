"""Read one file of rows, whatever its format, and say exactly where it is broken.

A problem of the whole file (not UTF-8, a column missing, no rows) is an `InputError`.  A problem of one row becomes a
`Row` with a `reason`, and reading goes on with the next line: what to do about it is the caller's decision.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qabert.errors import InputError, escaped, suggest

#: Tried in this order; the first one under which all wanted columns appear in the header is the file's.
DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
DELIMITED = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)
#: What to do about files of other kinds.
_OTHER_KINDS = {
    (".xlsx", ".xls", ".ods", ".numbers"): "save the sheet as CSV UTF-8",
    (".gz", ".zip", ".bz2", ".xz", ".zst"): "unpack it first",
}


class Row(NamedTuple):
    """One row of a file.

    Args:
        line: 1-based physical line on which the row starts; for parquet its 1-based row number.
        values: The wanted columns and those optional ones that the file has; empty for a broken row.
        column: The column in which a broken row is broken; empty where the line has no columns (it isn't JSON).
        reason: What is wrong with a broken row, or an empty string.
    """

    line: int
    values: Mapping[str, Any]
    column: str = ""
    reason: str = ""


def read_table(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """Read a file's rows, in the format that its suffix names.

    Delimited files (`.csv`, `.tsv`, `.txt`) have a header and standard CSV quoting; `.jsonl`, `.ndjson` and `.json`
    have one JSON object a line; `.parquet` is Parquet.  Blank lines are no rows.

    A quote that is never closed costs one row, not the rest of the file: reading starts again on the next line.  For
    that, a quoted field with line ends in it is taken for swallowed rows if its lines look like whole rows.

    Args:
        path: The file.
        wanted: Columns that have to be there.
        optional: Columns to read where the file has them.

    Yields:
        The rows in the file's order, broken ones included.

    Raises:
        InputError: The file can't be read or decoded, lacks a column, has one twice, or has no rows.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        rows = _read_delimited(path, wanted, optional)
    elif suffix in JSON_LINES:
        rows = _read_json_lines(path, wanted, optional)
    elif suffix in PARQUET:
        rows = _read_parquet(path, wanted, optional)
    else:
        known = ", ".join(DELIMITED + JSON_LINES + PARQUET)
        hint = next((f" ({hint})" for kinds, hint in _OTHER_KINDS.items() if suffix in kinds), "")
        raise InputError(f"{path}: unknown kind of file '{suffix}'; expected one of {known}{hint}")
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(f"{path}: no rows; expected at least one with {', '.join(wanted)}")


def check_columns(where: str, found: Sequence[str], wanted: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Check that the wanted columns are there, and that no column to be read stands twice.

    Args:
        where: What to call the place in errors.
        found: The column names there are.
        wanted: Columns that have to be there.
        optional: Columns that may be there.

    Raises:
        InputError: A wanted column is missing (lists those found and the nearest), or a column stands twice.
    """
    names = ", ".join(f"'{_short(name)}'" for name in found[:20]) + (", …" if len(found) > 20 else "")
    for column in wanted:
        if column not in found:
            near = suggest(column, [name for name in found if name])
            raise InputError(f"{where}: column '{column}' is missing{near}; found: {names or 'none'}")
    for column in (*wanted, *optional):
        if found.count(column) > 1:
            raise InputError(f"{where}: column '{column}' stands {found.count(column)} times; found: {names}")


def _read_delimited(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    lines = _lines(path)
    start = next((number for number, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise InputError(f"{path}, line 1: the file is empty; expected a header with {', '.join(wanted)}")
    delimiter, header = _header(f"{path}, line {start + 1}", lines[start], wanted, optional)
    picks = [(name, header.index(name)) for name in (*wanted, *optional) if name in header]
    start += 1
    while start < len(lines):
        first, reason = start, ""
        # Strict, because the lenient mode glues the rows that an unclosed quote swallows into one without a word.
        reader = csv.reader(map(lines.__getitem__, range(first, len(lines))), delimiter=delimiter, strict=True)
        try:
            for fields in reader:
                end = first + reader.line_num
                complete = len(fields) == len(header)
                if end > start + 1 and (not complete or _swallowed(lines[start:end], delimiter, len(header))):
                    reason = f"the quote opened here runs on to line {end}, over what looks like other rows"
                    break
                if complete:
                    yield Row(start + 1, {name: fields[index] for name, index in picks})
                elif "".join(fields).strip():
                    column = _column(header, min(len(fields), len(header)))
                    quotes = f" (a text with a {DELIMITERS[delimiter]} in it stands in quotes)"
                    more = quotes if len(fields) > len(header) else ""
                    yield Row(start + 1, {}, column, f"{len(fields)} fields where the header has {len(header)}{more}")
                start = end
            else:
                return
        except csv.Error as error:
            reason = _quoting_reason(error, delimiter)
        yield Row(start + 1, {}, _column(header, _broken_field(lines[start], delimiter)), reason)
        start += 1


def _header(where: str, line: str, wanted: Sequence[str], optional: Sequence[str]) -> tuple[str, list[str]]:
    """The file's delimiter and its column names, from the header line."""
    headers: dict[str, list[str]] = {}
    for delimiter in DELIMITERS:
        try:
            headers[delimiter] = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
        except csv.Error as error:
            raise InputError(f"{where}: the header can't be read: {error}") from None

    def found(delimiter: str) -> tuple[int, int]:
        return sum(name in headers[delimiter] for name in wanted), len(headers[delimiter])

    full = [delimiter for delimiter in DELIMITERS if found(delimiter)[0] == len(wanted)]
    best = full[0] if full else max(DELIMITERS, key=found)
    try:
        check_columns(where, headers[best], wanted, optional)
    except InputError as error:
        hint = ""
        if len(headers[best]) == 1:
            hint = "; only one column was found: expected tab, comma, semicolon or '|' between columns"
        elif not found(best)[0] and "did you mean" not in str(error):
            hint = "; the first line has to name the columns: does the file lack such a line?"
        raise InputError(f"{error}{hint}") from None
    return best, headers[best]


def _quoting_reason(error: csv.Error, delimiter: str) -> str:
    if "unexpected end of data" in str(error):
        return "the quote opened here is never closed"
    name = DELIMITERS[delimiter]
    return (
        f"not valid CSV ({str(error).split(' - ')[0]}): a field with a {name}, a line end or a quote at its start "
        "stands in quotes, and the quotes in it are doubled"
    )


def _swallowed(lines: Sequence[str], delimiter: str, columns: int) -> bool:
    """Whether the lines of a row that goes over several look like rows of their own (three in four of them).

    Prose has spaces after its commas and semicolons, rows of such files have none; so a text of several lines with as
    many commas as there are columns is not taken for rows.
    """
    rows = [line.split(delimiter) for line in lines]
    prose = delimiter in ",;" and any(field.startswith(" ") for fields in rows for field in fields[1:])
    alike = sum(len(fields) == columns for fields in rows)
    return columns > 1 and not prose and alike >= 0.75 * len(rows)


def _broken_field(line: str, delimiter: str) -> int:
    """0-based number of the line's first field that isn't well quoted."""
    end = re.escape(delimiter)
    good = re.compile(rf'(?:"(?:[^"]|"")*"|[^"{end}\r][^{end}\r]*|){end}')
    number = position = 0
    while (match := good.match(line, position)) and match.end() - position <= csv.field_size_limit():
        number, position = number + 1, match.end()
    return number


def _column(header: Sequence[str], number: int) -> str:
    name = header[number] if number < len(header) else ""
    return name or f"#{number + 1}"


def _read_json_lines(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    objects: list[tuple[int, dict[str, Any] | str]] = []  # an object, or what is wrong with the line
    for number, line in enumerate(_lines(path), 1):
        if not objects and re.match(r"\s*\[\s*(\{|$)", line):
            raise InputError(
                f"{path}, line {number}: a JSON array; expected one JSON object a line, no brackets or commas"
            )
        if line.strip():
            objects.append((number, _parse_object(line.rstrip())))
    if not objects:
        raise InputError(f"{path}, line 1: the file is empty; expected one JSON object a line with {', '.join(wanted)}")
    found = list(dict.fromkeys(key for _, values in objects if isinstance(values, dict) for key in values))
    if found:
        check_columns(str(path), found, wanted)
    for number, values in objects:
        if isinstance(values, str):
            yield Row(number, {}, "", values)
        elif missing := [name for name in wanted if name not in values]:
            yield Row(number, {}, missing[0], "the line's JSON object lacks this key")
        else:
            yield Row(number, {name: values[name] for name in (*wanted, *optional) if name in values})


def _parse_object(line: str) -> dict[str, Any] | str:
    try:
        values = json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        return f"not valid JSON at character {error.colno} ({error.msg}); expected one JSON object a line"
    except (ValueError, RecursionError) as error:  # a key twice; thousands of digits; thousands of brackets
        return f"not usable JSON: {error}"
    if not isinstance(values, dict):
        return f"expected a JSON object, got {type(values).__name__}"
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key '{_short(next(key for key in keys if keys.count(key) > 1))}' stands twice")
    return values


def _read_parquet(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    data = pyarrow.BufferReader(_bytes(path))
    try:
        file = pyarrow.parquet.ParquetFile(data)
        found: Collection[str] = file.schema_arrow.names
        check_columns(str(path), list(found), wanted, optional)
        names = [name for name in (*wanted, *optional) if name in found]
        rows = file.read(columns=names).select(names).to_pylist()
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read as Parquet: {_short(str(error), 200)}") from None
    for number, values in enumerate(rows, 1):
        yield Row(number, values)


def _bytes(path: Path) -> bytes:
    try:
        # Reading a pipe or a device would wait for ever.
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is {'a folder' if path.is_dir() else 'a device'}; expected a file")
        return path.read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise InputError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None


class _Lines(Sequence[str]):
    """Lines of UTF-8 text, decoded when they are asked for: a list of them all would take several times its bytes."""

    def __init__(self, data: bytes, end: bytes) -> None:
        parts = [
            np.flatnonzero(np.frombuffer(data, np.uint8, min(2**20, len(data) - first), first) == end[0]) + first + 1
            for first in range(0, len(data), 2**20)
        ]
        self.data, self.ends = data, np.concatenate([*parts, np.zeros(0, np.int64)])
        if data and not data.endswith(end):
            self.ends = np.append(self.ends, len(data))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start = self.ends[index - 1] if index else 0
        return self.data[start : self.ends[index]].decode()


def _lines(path: Path) -> _Lines:
    """The file's lines with their ends: line feeds, or carriage returns where the file has no line feed."""
    data = _bytes(path)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}, line 1, byte 1: looks like UTF-16; expected UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    decoder, first = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for first in range(0, len(data), 2**20):  # not at once: its text can take four times the bytes
            kept = len(decoder.getstate()[0])
            decoder.decode(data[first : first + 2**20], final=first + 2**20 >= len(data))
    except UnicodeDecodeError as error:
        start = first - kept + error.start
        place, byte = _place(data, start), data[start]
        raise InputError(f"{path}, {place}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None
    if (zero := data.find(b"\0")) >= 0:
        raise InputError(f"{path}, {_place(data, zero)}: a NUL byte; expected UTF-8 text, is this a binary file?")
    return _Lines(data, b"\n" if b"\n" in data else b"\r")


def _place(data: bytes, position: int) -> str:
    before = data[:position]
    line, byte = before.count(b"\n") + 1, position - before.rfind(b"\n")
    return f"line {line}, byte {byte}"


def _short(text: str, most: int = 60) -> str:
    text = text if len(text) <= most else text[: most - 1] + "…"
    # A file's bytes go to a terminal here: no control characters, nor marks that turn the line round.
    return escaped(text.strip())
