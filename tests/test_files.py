"""Files are whole or absent."""

from __future__ import annotations

import csv

import pytest

from qabert.errors import InputError
from qabert.files import check_place, csv_writer, whole_file


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "scores.txt"
    with whole_file(path) as file:
        file.write("half\n")
        file.flush()
        assert not path.exists()
        file.write("whole ☃\r\n")
    assert path.read_bytes() == "half\nwhole ☃\r\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_stood_there_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "scores.txt"
    path.write_text("before")
    with pytest.raises(error), whole_file(path) as file:
        file.write("half")
        raise error
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.txt"]


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "scores.txt"
    for text in ("a longer text", "short"):
        with whole_file(path) as file:
            file.write(text)
    assert path.read_text() == "short"


def test_a_csv_has_line_feeds_and_gives_back_carriage_returns(tmp_path):
    rows = [["a\rb", "c\r\nd"], ['"e",\n', ""], ["\r", "\n"], ["f\r\n", "g"]]
    with whole_file(tmp_path / "rows.csv") as file:
        csv_writer(file).writerows(rows)
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.reader(file)) == rows
    assert (tmp_path / "rows.csv").read_bytes().endswith(b",g\n")


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path):
    check_place(tmp_path / "new" / "folder", folder=True)
    check_place(tmp_path / "new" / "file.csv")
    check_place(tmp_path, folder=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file/inside", "file/deep/inside"])
@pytest.mark.parametrize("folder", [True, False])
def test_a_place_inside_a_file_is_refused(tmp_path, place, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        check_place(tmp_path / place, folder=folder)


def test_a_file_is_no_folder_and_a_folder_is_no_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_place(tmp_path / "file", folder=True)
    with pytest.raises(InputError, match="is a folder"):
        check_place(tmp_path)
