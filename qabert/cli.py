"""Commands: parse, call, print.  Heavy imports stand inside, so that `--help` is instant."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from qabert.errors import InputError


def _run(command: Callable[[Sequence[str]], Any], argv: Sequence[str] | None) -> None:
    """Run a command; wrong input is one line on stderr and exit code 2."""
    try:
        command(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `predict … | head`: the reader has gone
        sys.stderr.close()
        sys.exit(141)


def _train(argv: Sequence[str]) -> None:
    from qabert.training.arguments import parse

    args = parse(argv, "Train one encoder on several sentence tasks, a head for each.")
    from qabert.training.run import train

    train(args)


def train_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/train.py RECIPE [--key value …]`."""
    _run(_train, argv)
