"""`qabert train RECIPE [--key value …]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

#: What `--help` says first.
DESCRIPTION = "Train one encoder on several sentence tasks, a head for each."


def parser() -> argparse.ArgumentParser:
    """The command's flags that are ours."""
    from qabert.training.recipes import build_parser

    return build_parser(DESCRIPTION)


def run(argv: Sequence[str]) -> None:
    """Read recipe and flags, then train."""
    from qabert.training.recipes import parse

    args = parse(argv, DESCRIPTION)
    from qabert.training.run import train

    train(args)
