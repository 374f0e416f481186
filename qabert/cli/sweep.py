"""`qabert sweep SWEEP.yaml --output_dir FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qabert.cli.common import file_and_flags, positive
from qabert.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s SWEEP.yaml [--output_dir FOLDER] [--key VALUE …]",
        description="Search a recipe's keys for the best score on the dev rows (eval_score).  The same command goes on "
        "where an earlier one was cut off.  Ready files are in scripts/sweeps.",
        epilog="Every key of scripts/train.py is a flag too and wins over the file's settings (--data data/dfp …).",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", default="runs/sweep", help="folder of the study and its results [%(default)s]")
    parser.add_argument("--sampler", metavar="NAME", help="grid, random or tpe, instead of the file's")
    parser.add_argument("--pruner", metavar="NAME", help="none, median or hyperband, instead of the file's")
    parser.add_argument("--trials", type=positive, help="how many trials in all, instead of the file's")
    parser.add_argument(
        "--keep_models", nargs="?", const="true", default="false", choices=["true", "false"],
        help="keep every trial's model; otherwise its scores and predictions alone [false]",
    )  # fmt: skip
    return parser


def run(argv: Sequence[str]) -> None:
    """Search, then write trials, figures and the best recipe."""
    file, args, rest = file_and_flags(parser(), argv, "a sweep", "scripts/sweeps/tpe.yaml")
    from qabert.training.recipes import flag_pairs
    from qabert.training.sweeps import read_sweep

    output, keep_models = Path(args.output_dir), args.keep_models == "true"
    own = {key: value for key, value in vars(args).items() if key not in ("output_dir", "keep_models")}
    flags = flag_pairs(rest)
    if "seed" in flags:
        raise InputError("key 'seed': write it into the file, of the sampler at its top or of training in 'settings'")
    sweep = read_sweep(file, own | flags)
    from qabert.training.search import search

    for path in search(sweep, output, keep_models=keep_models):
        if path.parent == output:
            print(path)
    print(f"figures, as PNG and SVG, are in {output / 'figures'}")
