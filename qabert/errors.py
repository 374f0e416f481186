"""What can go wrong: the input, the run, or somebody stops it; and how a message suggests a mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave can't be used: a file, row, column, key, flag or checkpoint.

    The message is written for the user: it names the place and says what was expected.  The command line prints it
    without a traceback and exits with code 2.
    """


class RunError(RuntimeError):
    """A run can't go on: a loss that is no number, no memory, no disk.

    The message says what was kept and what to do.  The command line prints it without a traceback and exits with 1.
    """


class Stopped(SystemExit):
    """A signal asked the run to stop, and it did; the exit code is 128 + signum, as of a process that the signal ended.

    Args:
        signum: The signal.
        message: What was saved and how to go on.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(128 + signum)
        self.message = message


class Gathered:
    """Errors of places that don't depend on each other, told together: mending them takes one look instead of several.

    Example:
        >>> gathered = Gathered()
        >>> for name in ("a.csv", "b.csv"):
        ...     with gathered.one():
        ...         raise InputError(f"{name}: no rows")
        >>> gathered.tell()
        Traceback (most recent call last):
        ...
        qabert.errors.InputError: a.csv: no rows
        b.csv: no rows
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        """Keep the error of one place."""
        try:
            yield
        except InputError as error:
            self.messages.append(str(error))

    def tell(self) -> None:
        """Raise what was kept, if anything.

        Raises:
            InputError: All messages, a line or more each.
        """
        if self.messages:
            raise InputError("\n".join(dict.fromkeys(self.messages)))


def printable(message: str, most: int = 4000) -> str:
    """A message as a terminal may show it: files and flags can hold control characters, and can be endless."""
    if len(message) > most:
        message = f"{message[: most // 2]} … {message[-most // 2 :]}"
    return "\n".join(escaped(line) for line in message.split("\n"))


def escaped(text: str) -> str:
    """Text with every character that a terminal wouldn't show spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_unicode(text: str) -> bool:
    """Whether text has no half of a surrogate pair: JSON can spell one, and bytes that are no UTF-8 come as such."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to `word`, or an empty string."""
    near = difflib.get_close_matches(str(word), sorted(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def unknown(
    kind: str, word: object, known: Iterable[str], where: str = "", meant: Mapping[str, str] | None = None
) -> InputError:
    """An `InputError` for a name that isn't one of `known`, with the nearest known one and the whole list.

    Args:
        kind: What the word should name.
        word: The word.
        known: What there is.
        where: The place of the word.
        meant: Known words by what people write instead; they count more than likeness.
    """
    names = sorted(map(str, known))
    place = f"{where}: " if where else ""
    instead = (meant or {}).get(str(word).lower())
    near = f" (did you mean '{instead}'?)" if instead in names else suggest(str(word), names)
    return InputError(f"{place}unknown {kind} '{word}'{near}; known: {', '.join(names)}")


def told(error: BaseException) -> str:
    """What an error of a library says, in a line: the first two of its own, or its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def loading_problem(error: Exception) -> str | None:
    """What is wrong with a model's files, by what loading them raised; None where the error is no file's fault.

    Safetensors and tokenizers raise classes of their own for damaged files, or a bare `Exception`.
    """
    known = isinstance(
        error, OSError | ValueError | RuntimeError | LookupError | TypeError | AttributeError | ArithmeticError
    )
    foreign = type(error).__module__.split(".")[0] in ("safetensors", "tokenizers") or type(error) is Exception
    if "out of memory" in str(error) or not (known or foreign):
        return None
    return told(error)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, a GPU's or the machine's, didn't suffice."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(part in text for part in _NO_MEMORY))
    )


_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
