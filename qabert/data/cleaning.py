"""From rows as a source has them to rows that can be used, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from qabert.data.readers import Row
from qabert.tasks import COLUMNS, Task

if TYPE_CHECKING:
    from datasets.arrow_writer import ArrowWriter

#: A longer text is taken for a broken row: no encoder reads that far.
MAX_CHARACTERS = 100_000
#: Rows that are held as Python values at once.
CHUNK = 10_000


class _BrokenRow(Exception):
    """What is wrong with a row, and in which column."""


def clean_rows(
    task: Task,
    split: str,
    rows: Iterable[Row],
    columns: Mapping[str, str],
    needs_label: bool,
    writer: ArrowWriter,
) -> dict[str, Any]:
    """Write a source's rows as `text_a`, `text_b`, `label` and `id`, broken ones left out.

    Args:
        task: The rows' task.
        split: The split, which ids are made of where the source has none.
        rows: The rows as they were read.
        columns: The source's name of each column.
        needs_label: Whether a row without a label is a broken one.
        writer: Is given `CHUNK` rows at a time, and closed.

    Returns:
        `dropped`, the line, column and reason of each broken row, and `read`, how many rows there were.
    """
    import pyarrow

    def flush() -> None:
        values = dict(zip(COLUMNS, zip(*clean, strict=True) if clean else [()] * len(COLUMNS), strict=True))
        writer.write_table(pyarrow.table(values, schema=writer.schema))
        clean.clear()

    clean: list[tuple[Any, ...]] = []
    dropped: list[list[Any]] = []
    read = 0
    for row in rows:
        try:
            clean.append(_values(task, row, columns, needs_label, f"{split}-{read}"))
        except _BrokenRow as broken:
            name, reason = broken.args
            dropped.append([row.line, name, _shorten(reason)])
        read += 1
        if len(clean) == CHUNK:
            flush()
    flush()
    writer.finalize()
    return {"dropped": dropped, "read": read}


def _values(task: Task, row: Row, columns: Mapping[str, str], needs_label: bool, default_id: str) -> tuple[Any, ...]:
    """The row's `text_a`, `text_b`, `label` and `id`; a `_BrokenRow` is raised at the first that can't be used."""
    if row.reason:
        raise _BrokenRow(row.column, row.reason)
    name = ""
    try:
        text_a = _text(row.values.get(name := columns["text_a"]))
        text_b = _text(row.values.get(name := columns["text_b"])) if task.pair else None
        label = _label(task, row.values.get(name := columns["label"]), needs_label)
        name = columns.get("id", "")
        return text_a, text_b, label, _identity(row.values.get(name), default_id)
    except ValueError as error:
        raise _BrokenRow(name, str(error)) from None


def _text(value: object) -> str:
    if value is None:
        raise ValueError("the text is missing")
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")
    text = value.strip()
    if not text:
        raise ValueError("the text is empty")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the text has {len(text)} characters; expected at most {MAX_CHARACTERS}")
    return _encodable(text)


def _label(task: Task, value: object, needed: bool) -> int | float | None:
    try:
        if value is None or value == "":
            raise ValueError("the label is missing")
        if isinstance(value, list | dict):
            raise ValueError(f"expected a label, got {type(value).__name__}")
        return task.parse_label(value)
    except ValueError as error:
        if needed:
            raise ValueError(str(error)) from None
        return None  # an unlabelled split may hold -1 or nothing


def _identity(value: object, default: str) -> str:
    if isinstance(value, list | dict):
        raise ValueError(f"expected text or a number, got {type(value).__name__}")
    text = "" if value is None else str(value).strip()
    return _encodable(text) if text else default


def _encodable(text: str) -> str:
    """JSON can spell half a surrogate pair, which no UTF-8 can hold and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start + 1} is half a surrogate pair; expected Unicode text") from None
    return text


def _shorten(reason: str, most: int = 400) -> str:
    """Keep both ends: a message starts with the value, which may be long, and ends with what was expected."""
    return reason if len(reason) <= most else f"{reason[: most // 2]} … {reason[-most // 2 :]}"
