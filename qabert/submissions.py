"""Rows of a person's own in, files of answers out; the course's submission files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from qabert.answers import write_submission
from qabert.errors import InputError, is_unicode
from qabert.files import csv_writer, whole_file
from qabert.inference import Predictor
from qabert.processes import ALONE, Processes
from qabert.tasks import Task

#: Endings of tables; any other file is text with a row a line.
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")

Row = tuple[str, str | None]


def sentence_row(sentences: Sequence[str], task: Task) -> Row:
    """The row of one or two sentences from the command line.

    Raises:
        InputError: One too few or too many for the task, or an empty one.
    """
    wanted = 2 if task.pair else 1
    if len(sentences) != wanted:
        raise InputError(f"task '{task.name}' takes {wanted} sentence(s) (in quotes), got {len(sentences)}")
    if not all(sentence.strip() for sentence in sentences):
        raise InputError("a sentence is empty")
    for sentence in sentences:
        if not is_unicode(sentence):
            raise InputError(f"sentence {sentence!r} is not Unicode text; expected UTF-8")
    return sentences[0], sentences[1] if task.pair else None


def file_rows(name: str, task: Task) -> list[Row]:
    """Rows of a table with the task's columns, or of a text file (`-`: standard input), one a line, pairs with a tab.

    Raises:
        InputError: The file can't be read, has no rows, or a row is broken; an answer is owed for every row, so none is
            skipped.
    """
    if name != "-" and Path(name).suffix.lower() in TABLES:
        from qabert.data.readers import read_table

        columns = [task.columns[key] for key in ("text_a", "text_b") if key in task.columns]
        rows = []
        for row in read_table(Path(name), columns):
            texts = [row.values.get(column) for column in columns]
            for column, text in zip(columns, texts, strict=True):
                if row.reason or not isinstance(text, str) or not text.strip():
                    reason = row.reason or "expected a sentence"
                    raise InputError(f"{name}, line {row.line}, column '{row.column or column}': {reason}")
                if not is_unicode(text):
                    raise InputError(f"{name}, line {row.line}, column '{column}': not Unicode text")
            rows.append((str(texts[0]).strip(), str(texts[1]).strip() if task.pair else None))
    else:
        rows = [_line_row(name, number, line, task) for number, line in enumerate(_lines(name), 1)]
    if not rows:
        raise InputError(f"{name}: no rows")
    return rows


def _lines(name: str) -> list[str]:
    """Lines of UTF-8 text.  Only line feeds end one: `str.splitlines` would also cut at a form feed or U+2028."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8-sig").removesuffix("\n").split("\n") if data else []
    except OSError as error:
        raise InputError(f"{name}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{name}, line {line}: byte {error.start} is not UTF-8") from None


def _line_row(name: str, number: int, line: str, task: Task) -> Row:
    texts = [text.strip() for text in line.split("\t")] if task.pair else [line.strip()]
    if len(texts) != 1 + task.pair or not all(texts):
        wanted = "two sentences with a tab between them" if task.pair else "a sentence"
        raise InputError(f"{name}, line {number}: expected {wanted}, got {line[:80]!r}")
    return texts[0], texts[1] if task.pair else None


def write_answers(predictor: Predictor, task: Task, rows: Sequence[Row], output: Path | None, batch_size: int) -> None:
    """Print answers as JSON lines, one a row and in the rows' order; or write them to a CSV file.

    Of several processes the main one prints or writes; the others only answer their share.
    """
    quiet = not predictor.processes.main
    answers = tqdm(predictor.predict(task.name, rows, batch_size), total=len(rows), unit="row", delay=2, disable=quiet)
    if quiet:
        for _ in answers:
            pass
        return
    if output is None:
        for answer in answers:
            print(json.dumps(answer, ensure_ascii=False))
        return
    with whole_file(output) as file:
        writer = csv_writer(file)
        texts = ["text_a", "text_b"] if task.pair else ["text_a"]
        writer.writerow([*texts, *(["value"] if task.range else ["label", *(f"p({name})" for name in task.labels)])])
        for row, answer in zip(rows, answers, strict=True):
            cells = [answer["value"]] if task.range else [answer["label"], *answer["probabilities"].values()]
            writer.writerow([*row[: len(texts)], *cells])
    print(f"{len(rows)} answers are in {output}")


def write_submissions(
    model: str,
    tasks: Mapping[str, Task],
    data: str,
    output: Path,
    batch_size: int,
    device: str | None,
    processes: Processes = ALONE,
    dtype: str = "float32",
) -> Iterator[Path]:
    """Write `<task>-dev-output.csv` and `<task>-test-output.csv` for every task and split that the folder has.

    Yields:
        Each file, when it is written: of several processes, by the main one.

    Raises:
        InputError: The folder has no file of any task, or one that can't be read.
    """
    from qabert.data.sources import load_task
    from qabert.evaluation.scores import answer_rows

    rows: dict[tuple[str, str], Any] = {}
    for name, task in tasks.items():
        for split in ("dev", "test"):
            if task.output and (data == "demo" or (split in task.files and (Path(data) / task.files[split]).is_file())):
                loaded = load_task(task, data, (split,), labelled=(), cache=True)
                rows[name, split] = loaded.splits[split]
                for item in loaded.dropped[split] if processes.main else ():
                    print(f"{name}: no prediction for a broken row: {item}", file=sys.stderr)
    if not rows:
        wanted = [task.files[split] for task in tasks.values() for split in ("dev", "test") if split in task.files]
        raise InputError(
            f"{data}: found none of the tasks' dev and test files: {', '.join(wanted) or 'none is declared'}"
        )
    predictor = Predictor.from_pretrained(model, device, processes, dtype)
    for (name, split), split_rows in rows.items():
        output_name = tasks[name].output
        assert output_name is not None  # asked for above
        path = output / f"{output_name[0]}-{split}-output.csv"
        answers = answer_rows(predictor, name, split_rows, batch_size)
        if processes.main:
            write_submission(path, tasks[name], split_rows["id"], answers)
            yield path
