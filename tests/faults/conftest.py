"""Options and folders of the fault tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

TRIES = pytest.StashKey[list]()


def pytest_addoption(parser: pytest.Parser) -> None:
    # Known where `tests/faults` is named on the command line: pytest reads options before it looks for more conftests.
    parser.addoption("--fault-tries", type=int, default=20, help="faults of each kind of `-m faults` [20]")
    parser.addoption("--fault-seed", type=int, default=0, help="seed of the first of them; each has the next one [0]")
    parser.addoption("--fault-table", help="write the table of faults there, as Markdown, and each of them")
    parser.addoption("--fuzz-cases", type=int, default=5000, help="malformed inputs of `-m fuzz` [5000]")
    parser.addoption("--fuzz-first", type=int, default=0, help="seed of the first of them [0]")


@pytest.fixture(scope="session")
def templates(tmp_path_factory, course_folder, trained, encoder_path) -> Path:
    """A folder with what fuzz cases damage copies of: `data`, `model` and `encoder`."""
    folder = tmp_path_factory.mktemp("templates")
    for name, source in (("data", course_folder), ("model", trained), ("encoder", encoder_path)):
        shutil.copytree(source, folder / name)
    return folder


@pytest.fixture
def fault_seeds(request) -> range:
    """Seeds of the tries: `--fault-seed N --fault-tries 1` repeats the one with seed N."""
    first, tries = (request.config.getoption(f"--fault-{key}", value) for key, value in (("seed", 0), ("tries", 20)))
    return range(first, first + tries)


@pytest.fixture(scope="session")
def harness(request, tmp_path_factory, course_folder, encoder_path):
    """Starts, breaks and compares runs; what came of them is told at the end."""
    from kills import Harness

    made = Harness(tmp_path_factory.mktemp("faults"), course_folder, encoder_path)
    request.config.stash[TRIES] = made.tries
    return made


def pytest_terminal_summary(terminalreporter, config) -> None:
    """The table of the faults."""
    if not (tries := config.stash.get(TRIES, [])):
        return
    from fault_table import table

    terminalreporter.write_line("")
    terminalreporter.write_line(lines := table(tries))
    if path := config.getoption("--fault-table", None):
        each = "\n".join(f"- {one}" for one in tries)
        Path(path).write_text(f"{lines}\n\n{each}\n", encoding="utf-8")
