"""`qabert export MODEL OUT`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description="Write a model as one graph, for programs without this package.", allow_abbrev=False
    )
    parser.add_argument("model", help="folder that training wrote, or a hub name")
    parser.add_argument("output", help="folder for the graph, the tokenizer and the tasks")
    parser.add_argument("--tasks", help="some of the model's tasks, with commas between them; all if unset")
    parser.add_argument("--format", default="onnx", choices=["onnx", "torch"], help="model.onnx or model.pt2 [onnx]")
    return parser


def run(argv: Sequence[str]) -> None:
    """Export."""
    args = parser().parse_args(argv)
    names = [name.strip() for name in args.tasks.split(",")] if args.tasks else None
    from qabert.export import FORMATS, export

    output = Path(args.output)
    worst = export(args.model, output, args.format, names)
    path = output / FORMATS[args.format][0]
    size = path.stat().st_size / 2**20
    print(f"{path}, {size:,.1f} MiB, computes what the model does: its numbers differ by {worst:.1e} at most")
