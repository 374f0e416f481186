"""`qabert merge ADAPTER OUT`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description="Make a whole model of an encoder and what a LoRA run learnt.", allow_abbrev=False
    )
    parser.add_argument("adapter", help="the adapter/ folder of a run with lora_rank")
    parser.add_argument("output", help="folder for the model")
    parser.add_argument("--encoder", help="the encoder that the adapter was trained on, where it doesn't name it")
    return parser


def run(argv: Sequence[str]) -> None:
    """Merge."""
    args = parser().parse_args(argv)
    from qabert.training.lora import merge

    merge(args.adapter, Path(args.output), args.encoder)
    print(f"the model is in {args.output}")
