"""What the commands share: how they end, and flags and checks that several of them have."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qabert.errors import InputError, RunError, Stopped, is_unicode, printable, unknown
from qabert.files import DISK_ERRORS
from qabert.task_files import load_tasks
from qabert.tasks import PAPER_TASKS, Task

if TYPE_CHECKING:
    from qabert.data.sources import TaskData


def run_command(command: Callable[[Sequence[str]], Any], argv: Sequence[str] | None) -> None:
    """Run a command.  Wrong input is one line on stderr and exit code 2; a run that broke off, one line and code 1."""
    # Python puts a script's folder first: `import evaluate` would find scripts/evaluate.py instead of the library.
    here = os.path.dirname(os.path.realpath(sys.argv[0]))  # through links, as Python does
    ours = [path for path in sys.path if os.path.isfile(os.path.join(path, "evaluate.py"))]
    sys.path[:] = [path for path in sys.path if path not in ours or os.path.realpath(path) != here]
    # The libraries' loading bars and reports would bury what is worth reading; set before they are imported.
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    try:
        words = sys.argv[1:] if argv is None else argv
        _check_words(words)
        command(words)
        sys.stdout.flush()  # here, and not when Python ends, a reader that has gone can be told from an error
    except (InputError, RunError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(stopped.message, file=sys.stderr, flush=True)
        raise
    except BrokenPipeError:  # `predict … | head`: the reader has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush goes nowhere
        sys.exit(141)
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:
            raise
        print(f"error: {printable(f'{error.filename}: {error.strerror}')}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _check_words(words: Sequence[str]) -> None:
    for number, word in enumerate(words, 1):
        if re.fullmatch(r"--[\w-]+=--", word):  # argparse would make an empty list of it
            raise InputError(f"{word}: expected a value after '='")
        if not is_unicode(word):  # bytes that are no UTF-8
            raise InputError(f"argument {number} of the command line is not Unicode text: {word!a}; expected UTF-8")


def model_parser(description: str, batch_size: int = 64, sections: Sequence[str] = ()) -> argparse.ArgumentParser:
    """A parser of what every command that asks a model takes; `--help` shows `sections`, then how it is computed."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("model", help="folder that training wrote, or a hub name")
    for title in sections:
        section(parser, title)
    computing = section(parser, "computing")
    computing.add_argument(
        "--batch_size", type=positive, default=batch_size, help=f"rows per encoder call [{batch_size}]"
    )
    computing.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    return parser


def section(parser: argparse.ArgumentParser, title: str) -> Any:
    """The group of flags of that title in `--help`, made where there is none."""
    found = (group for group in parser._action_groups if group.title == title)
    return next(found, None) or parser.add_argument_group(title)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add `--dtype`."""
    section(parser, "computing").add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16"],
        help="what the encoder computes in; bfloat16 is about twice as fast on GPUs and CPUs that have it, and changes "
        "answers a little [float32]",
    )


def file_and_flags(
    parser: argparse.ArgumentParser, argv: Sequence[str], what: str, example: str
) -> tuple[Path, argparse.Namespace, list[str]]:
    """The file that a command starts with, the parser's flags, and the words that it doesn't know.

    As for training, the file is first: after an unknown flag it couldn't be told from the flag's value.

    Raises:
        InputError: No file is first: `what` was expected, such as `example`.
    """
    file, words = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    args, rest = parser.parse_known_args(words)
    if file is None:
        raise InputError(f"give {what} first, such as {example}; then flags")
    return Path(file), args, rest


def positive(text: str) -> int:
    """A flag's whole number over 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")
    return int(text)


def model_tasks(config: Any, model: str, chosen: str | None) -> dict[str, Task]:
    """The model's tasks, or the chosen ones; where their rows are is taken from the paper's or from a YAML file."""
    from qabert.model_config import declared_tasks

    own = declared_tasks(config)
    places = dict(PAPER_TASKS)
    names = list(own)
    if chosen is not None and chosen.endswith((".yaml", ".yml")):
        places = load_tasks(chosen)
        names = list(places)
    elif chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
    for name in names:
        if name not in own:
            raise unknown("task", name, own, f"model '{model}'")
    return {
        name: dataclasses.replace(own[name], files=places[name].files, hub=places[name].hub)
        if name in places
        else own[name]
        for name in names
    }


def add_labelled(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which labelled rows of which tasks."""
    given = section(parser, "input")
    given.add_argument("--data", help="folder of data files, 'hub' or 'demo'")
    given.add_argument("--split", default="dev", choices=["train", "dev", "test"], help="which labelled rows [dev]")
    given.add_argument("--tasks", help="some of the model's tasks, or a YAML file that says where their files are")


def labelled_rows(tasks: Mapping[str, Task], data: str | None, split: str, strict: bool = False) -> dict[str, TaskData]:
    """A split's labelled rows by task.

    Raises:
        InputError: Rows that can't be loaded, or a task without a file for the split.
    """
    from qabert.data.sources import load_task

    found = {
        name: load_task(task, data, (split,), strict=strict, labelled=(split,), cache=True)
        for name, task in tasks.items()
    }
    for name in tasks:
        if split not in found[name].splits:
            raise InputError(
                f"task '{name}', key 'files': no file is declared for the split '{split}'; give --tasks the YAML "
                "file that says where its rows are"
            )
    return found


def report_dropped(task: str, dropped: Sequence[Any]) -> None:
    """Say on stderr which rows were broken."""
    for item in dropped[:10]:
        print(f"{task}: dropped {item}", file=sys.stderr)
    if len(dropped) > 10:
        print(f"{task}: and {len(dropped) - 10} more rows dropped", file=sys.stderr)
