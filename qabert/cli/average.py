"""`qabert average OUT MODEL MODEL…`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description="Write a model whose weights are the mean of several: of a run's last checkpoints, or of runs that "
        "differ in their seed.",
        allow_abbrev=False,
    )
    parser.add_argument("output", help="folder for the model")
    parser.add_argument(
        "models", nargs="+", metavar="model", help="folder that training wrote, or hub name; two or more"
    )
    return parser


def run(argv: Sequence[str]) -> None:
    """Average."""
    args = parser().parse_args(argv)
    from qabert.averaging import average

    average(args.models, Path(args.output))
    print(f"the mean of {len(args.models)} models is in {args.output}")
