"""`qabert reproduce PLAN.yaml --output_dir FOLDER`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from qabert.cli.common import file_and_flags, positive
from qabert.files import check_place


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s PLAN.yaml [--output_dir FOLDER] [--key VALUE …]",
        description="Train a plan's models side by side, over seeds, and write a report.  The same command goes on "
        "where an earlier one was cut off.  Plans are in scripts/reproductions.",
        epilog="Every key of scripts/train.py is a flag too and wins over the plan's settings (--data data/dfp …).",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", default="runs/reproduction", help="folder of runs and report [%(default)s]")
    parser.add_argument("--seeds", type=_seeds, help="seeds instead of the plan's: 1,2,3")
    parser.add_argument("--arms", type=lambda text: text.split(","), help="some of the plan's models: baseline,qa")
    parser.add_argument("--jobs", type=positive, default=1, help="runs side by side, sharing the cores [1]")
    return parser


def run(argv: Sequence[str]) -> None:
    """Train a plan's models and write the report."""
    plan_file, args, rest = file_and_flags(parser(), argv, "a plan", "scripts/reproductions/paper.yaml")
    from qabert.training.plans import read_plan
    from qabert.training.recipes import flag_pairs
    from qabert.training.reproduce import reproduce

    check_place(Path(args.output_dir), folder=True)
    plan = read_plan(plan_file, flag_pairs(rest), args.seeds)
    command = shlex.join(["python", "scripts/reproduce.py", *argv])
    written = reproduce(plan, Path(args.output_dir), command=command, arms=args.arms, jobs=args.jobs)
    print(*(file for file in written if file.parent == Path(args.output_dir)), sep="\n")
    print(f"figures, as PNG and SVG, are in {Path(args.output_dir) / 'figures'}")


def _seeds(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers with commas between them")
    return [int(part) for part in text.split(",")]


def arm(argv: Sequence[str]) -> None:
    """One run of a reproduction, which starts it."""
    from qabert.training.reproduce import run_arm

    run_arm(Path(argv[0]), argv[1], int(argv[2]))
