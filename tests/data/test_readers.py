import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qabert.data.readers import Row, read_table
from qabert.errors import InputError

HEADER = "\tid\tsentence\tsentiment\n"
WANTED = ["sentence", "sentiment"]


def write(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path, wanted: list[str] = WANTED, optional: tuple[str, ...] = ()) -> list[Row]:
    return list(read_table(path, wanted, optional))


def good(path: Path) -> list[tuple[int, str, str]]:
    return [(row.line, row.values["sentence"], row.values["sentiment"]) for row in rows(path) if not row.reason]


def broken(path: Path) -> list[tuple[int, str]]:
    return [(row.line, row.column) for row in rows(path) if row.reason]


def test_course_file_with_an_unnamed_index_column(tmp_path):
    path = write(tmp_path, HEADER + "0\ta7\t It 's lovely .\t3\n1\t33\t No one\t2\n")
    assert rows(path, WANTED, ("id",)) == [
        Row(2, {"sentence": " It 's lovely .", "sentiment": "3", "id": "a7"}),
        Row(3, {"sentence": " No one", "sentiment": "2", "id": "33"}),
    ]


def test_course_test_file_with_two_index_columns(tmp_path):
    path = write(tmp_path, "0\t\tid\tsentence\n1\t0.0\tb7\tEffective\n")
    assert rows(path, ["sentence"], ("id", "sentiment")) == [Row(2, {"sentence": "Effective", "id": "b7"})]


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt", "CSV"])
def test_delimiter_is_found_whatever_the_suffix(tmp_path, delimiter, suffix):
    lines = [["sentence", "other", "sentiment"], ["A, b; c", "x", "1"]]
    quoted = "\n".join(delimiter.join(f'"{field}"' for field in fields) for fields in lines)
    assert good(write(tmp_path, quoted, f"rows.{suffix}")) == [(2, "A, b; c", "1")]


def test_one_column_needs_no_delimiter(tmp_path):
    path = write(tmp_path, "sentence\nWell, well; well | well\n", "rows.txt")
    assert rows(path, ["sentence"]) == [Row(2, {"sentence": "Well, well; well | well"})]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbfsentence\tsentiment\nfine\t1\n", id="byte order mark"),
        pytest.param(b"sentence\tsentiment\r\nfine\t1\r\n", id="carriage return and line feed"),
        pytest.param(b"sentence\tsentiment\rfine\t1\r", id="carriage return only"),
        pytest.param(b"sentence\tsentiment\nfine\t1", id="no line end at the end"),
        pytest.param(b" sentence\t sentiment \nfine\t1\n", id="blanks around column names"),
        pytest.param(b"sentence\tsentiment\nfine\t1\n\n   \n", id="blank lines"),
    ],
)
def test_how_lines_and_headers_may_be_written(tmp_path, content):
    path = write(tmp_path, content)
    assert [(row.line, row.values) for row in rows(path)] == [(2, {"sentence": "fine", "sentiment": "1"})]


def test_doubled_quotes_and_line_ends_in_quotes(tmp_path):
    path = write(tmp_path, HEADER + '0\ta\t"""Which"" is\r\nright?"\t1\n1\tb\tnext\t2\n')
    assert good(path) == [(2, '"Which" is\r\nright?', "1"), (4, "next", "2")]


def test_a_quote_inside_an_unquoted_field_is_text(tmp_path):
    assert good(write(tmp_path, HEADER + '0\ta\tof 5" or 6"\t1\n')) == [(2, 'of 5" or 6"', "1")]


# Only the row that is broken is lost: each of these has one before it and two after it.
@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        pytest.param("1\tb\tshort", "sentiment", "3 fields where the header has 4", id="too few fields"),
        pytest.param("1\tb\ttoo\t1\tlong", "#5", "5 fields where the header has 4", id="too many fields"),
        pytest.param('1\tb\t"Never closed\t1', "sentence", "never closed", id="unclosed quote"),
        pytest.param('1\t"b\tNever closed\t1', "id", "never closed", id="unclosed quote in another column"),
        pytest.param(
            '1\tb\t"Quoted" start\t1', "sentence", "quotes in it are doubled", id="text after a closing quote"
        ),
        pytest.param("1\tb\tone\rtwo\t1", "sentence", "a line end", id="carriage return outside quotes"),
        pytest.param(f"1\tb\t{'x' * 140_000}\t1", "sentence", "field limit", id="endless field"),
    ],
)
def test_a_broken_row_is_named_and_the_rest_is_read(tmp_path, line, column, reason):
    path = write(tmp_path, f"{HEADER}0\ta\tbefore\t0\n{line}\n2\tc\tafter\t2\n3\td\tlast\t3\n")
    found = rows(path)
    assert good(path) == [(2, "before", "0"), (4, "after", "2"), (5, "last", "3")]
    assert broken(path) == [(3, column)]
    assert reason in next(row.reason for row in found if row.reason)


@pytest.mark.parametrize(
    "last",
    [
        pytest.param('3\td\tof 5"\t3', id="closed by a stray quote in the same column"),
        pytest.param('3\tof 5"\td\t3', id="closed by a stray quote in another column"),
        pytest.param('3\td\t"A ""quoted"" one"\t3', id="next quoted field opens"),
        pytest.param('3\t""\td\t3', id="next quoted field is empty"),
    ],
)
def test_rows_swallowed_by_an_unclosed_quote_are_rescued(tmp_path, last):
    path = write(tmp_path, f'{HEADER}1\tb\t"Never closed\t1\n2\tc\tswallowed\t2\n{last}\n')
    assert broken(path) == [(2, "sentence")]
    assert [line for line, _, _ in good(path)] == [3, 4]


def test_prose_of_several_lines_with_commas_is_no_broken_row(tmp_path):
    path = write(tmp_path, 'sentence,sentiment\n"Hello, world\nGoodbye",1\n')
    assert good(path) == [(2, "Hello, world\nGoodbye", "1")]


def test_rows_are_rescued_where_the_closing_row_is_broken_too(tmp_path):
    path = write(tmp_path, HEADER + '1\tb\t"Never closed\t1\n2\tc\tswallowed\t2\n3\tof 5"\td\t3\textra\n')
    assert good(path) == [(3, "swallowed", "2")]
    assert broken(path) == [(2, "sentence"), (4, "#5")]


def test_json_lines(tmp_path):
    lines = [{"sentence": "Größe\u2028?", "sentiment": 3, "extra": []}, {"sentiment": None, "sentence": 5}]
    content = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    assert rows(write(tmp_path, content, "rows.jsonl")) == [
        Row(1, {"sentence": "Größe\u2028?", "sentiment": 3}),
        Row(3, {"sentence": 5, "sentiment": None}),
    ]


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        ("[1, 2]", "", "expected a JSON object, got list"),
        ('"text"', "", "expected a JSON object, got str"),
        ('{"sentence": "a", "sentiment": 1', "", "not valid JSON at character 33"),
        ('{"sentence": "a", "sentence": "b", "sentiment": 1}', "", "key 'sentence' stands twice"),
        ('{"sentence": "a"}', "sentiment", "lacks this key"),
        ('{"sentence": "a", "sentiment": ' + "9" * 5000 + "}", "", "digits"),
        ("[" * 200_000, "", "not usable JSON"),
    ],
)
def test_a_broken_json_line_is_named_and_the_rest_is_read(tmp_path, line, column, reason):
    fine = '{"sentence": "fine", "sentiment": 1}\n'
    before, row, after = rows(write(tmp_path, f"{fine}{line}\n{fine}", "rows.jsonl"))
    assert (row.line, row.column) == (2, column)
    assert reason in row.reason
    assert (before.line, after.line, after.reason) == (1, 3, "")


def test_parquet(tmp_path):
    table = pa.table({"x": [1, 2], "sentiment": [0.5, None], "id": [7, 8], "sentence": ["a", None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert rows(tmp_path / "rows.parquet", WANTED, ("id",)) == [
        Row(1, {"sentence": "a", "sentiment": 0.5, "id": 7}),
        Row(2, {"sentence": None, "sentiment": None, "id": 8}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.csv", b"", "line 1.*empty.*sentence, sentiment"),
        ("r.csv", b"\n \n", "line 1.*empty"),
        ("r.csv", b"sentence\tsentiment\n", "no rows"),
        (
            "r.csv",
            b"sentence\tsentiments\nx\t1\n",
            "line 1: column 'sentiment' is missing.*mean 'sentiments'.*'sentence'",
        ),
        ("r.csv", b"\n\nsentence\tlabel\nx\t1\n", "line 3: column 'sentiment'.*found: 'sentence', 'label'"),
        ("r.csv", b"sentence:sentiment\nx:1\n", "line 1: column 'sentence'.*only one column.*tab, comma, semicolon or"),
        ("r.csv", b"sentence\tsentiment\tsentence\nx\t1\ty\n", "line 1: column 'sentence' stands 2 times"),
        ("r.csv", b"sentence\tid\tid\tsentiment\nx\t1\ty\t1\n", "line 1: column 'id' stands 2 times"),
        ("r.csv", b"sentence\tsentiment\nx\t1\ncaf\xe9\t2\n", "line 3, byte 4: byte 0xe9 is not UTF-8"),
        ("r.csv", b"sentence\tsentiment\nx\t1\na\0b\t2\n", "line 3, byte 2: a NUL byte"),
        ("r.csv", "sentence\tsentiment\nx\t1\n".encode("utf-16"), "line 1, byte 1: looks like UTF-16"),
        ("r.csv", b"x" * 200_000, "line 1: the header can't be read.*limit"),
        ("r.jsonl", b"\n", "line 1.*empty.*one JSON object a line"),
        ("r.jsonl", b'{"sentence": "x", "label": 1}', "column 'sentiment' is missing.*found: 'sentence', 'label'"),
        ("r.jsonl", b'{"sentence": "x"}\n\xff', "line 2, byte 1: byte 0xff is not UTF-8"),
        ("r.parquet", b"", "can't be read as Parquet"),
        ("r.parquet", b"PAR1 but no more PAR1", "can't be read as Parquet"),
        ("r.xlsx", b"PK", "unknown kind of file '.xlsx'; expected one of .csv"),
        ("r.csv.gz", b"\x1f\x8b", "unknown kind of file '.gz'"),
    ],
)
def test_an_unusable_file_is_one_error(tmp_path, name, content, expected):
    path = write(tmp_path, content, name)
    with pytest.raises(InputError, match=f"(?s){re.escape(str(path))}.*{expected}"):
        rows(path, WANTED, ("id",))


def test_parquet_without_rows_or_column(tmp_path):
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"sentence": pa.array([], "string"), "sentiment": pa.array([], "int64")}), path)
    with pytest.raises(InputError, match=r"r\.parquet: no rows"):
        rows(path)
    with pytest.raises(InputError, match=r"r\.parquet: column 'sentences' is missing.*mean 'sentence'"):
        rows(path, ["sentences"])


def test_truncated_parquet(tmp_path):
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"sentence": ["a"] * 100, "sentiment": [1] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"r\.parquet: can't be read as Parquet"):
        rows(path)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(InputError, match=r"rows\.csv: is a folder; expected a file"):
        rows(tmp_path / "rows.csv")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(InputError, match=r"rows\.csv: is a device; expected a file"):
        rows(tmp_path / "rows.csv")


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"rows\.csv: can't be read: No such file"):
        rows(tmp_path / "rows.csv")


def test_no_permission(tmp_path, monkeypatch):
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root, who runs tests in containers, may read everything
    with pytest.raises(InputError, match=r"rows\.csv: can't be read: Permission denied"):
        rows(write(tmp_path, HEADER))


def test_a_nul_in_the_path():
    with pytest.raises(InputError, match="can't be read: embedded null byte"):
        rows(Path("a\0.csv"))


def test_an_unclosed_quote_in_each_row_takes_no_quadratic_time(tmp_path):
    content = HEADER + "".join(f'{number}\tb\t"Never closed\t1\n' for number in range(50_000))
    assert len(broken(write(tmp_path, content))) == 50_000  # the suite's time limit is the assertion


def test_importing_the_readers_is_cheap():
    code = "import sys, qabert.data.readers; print([m for m in ('datasets', 'pyarrow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_awkward = st.text(st.sampled_from("\"'\t\n\r,;| ab\ufeff\u2028é") | _characters, min_size=1, max_size=30)
# A text that has both line ends and delimiters may look like swallowed rows, which is the reader's documented limit.
_texts = _awkward.map(lambda text: text.replace("\n", "")) | _awkward.map(lambda text: re.sub(r"[\t,;|]", "", text))


@settings(max_examples=200, deadline=None)
@given(
    data=st.lists(st.tuples(_texts, _texts), min_size=1, max_size=8),
    delimiter=st.sampled_from("\t,;|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_the_csv_module_writes_is_read_back_equal(tmp_path_factory, data, delimiter, quoting):
    path = tmp_path_factory.getbasetemp() / "round-trip.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerows([("id", "a", "b", "label"), *(("i", a, b, "0") for a, b in data)])
    found = rows(path, ["a", "b"])
    assert [(row.values.get("a"), row.values.get("b"), row.reason) for row in found] == [(a, b, "") for a, b in data]


_pieces = [
    b"sentence",
    b"sentiment",
    b"\t",
    b",",
    b"\n",
    b"\r",
    b'"',
    b"x",
    b"{",
    b"}",
    b":",
    b"[",
    b"1",
    b"\xff",
    b"\0",
]
_contents = st.binary(max_size=200) | st.lists(st.sampled_from(_pieces), max_size=60).map(b"".join)
_starts = st.sampled_from(
    [b"", b"\xef\xbb\xbf", b"sentence\tsentiment\n", b'{"sentence": "x", "sentiment": 1}\n', b"PAR1"]
)


@settings(max_examples=300, deadline=None)
@given(start=_starts, content=_contents, suffix=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_any_bytes_are_rows_or_an_input_error(tmp_path_factory, start, content, suffix):
    path = write(tmp_path_factory.getbasetemp(), start + content, f"fuzz.{suffix}")
    try:
        found = rows(path)
    except InputError as error:
        assert str(path) in str(error)
        return
    lines = [row.line for row in found]
    assert lines == sorted(set(lines)) and lines[0] >= 1
    assert all(row.reason or set(row.values) == set(WANTED) for row in found)
