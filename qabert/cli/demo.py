"""`qabert demo MODEL`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qabert.cli.common import positive
from qabert.errors import InputError
from qabert.processes import launched_processes


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description="Serve a web page, for this machine alone, on which a trained model answers sentences.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="folder that training wrote, or a hub name")
    parser.add_argument("--port", type=positive, help="where it listens on 127.0.0.1 [the first free one from 7860]")
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    return parser


def run(argv: Sequence[str]) -> None:
    """Load the model and serve the page until Ctrl-C."""
    args = parser().parse_args(argv)
    if args.port is not None and args.port > 65535:
        raise InputError(f"--port {args.port}: expected a number up to 65535")
    if launched_processes() > 1:
        raise InputError("the page is served by one process: start it without torchrun")
    from qabert.demo_page.page import free_port, require_gradio, serve

    require_gradio()
    port = free_port(args.port)
    from qabert.inference import Predictor

    predictor = Predictor.from_pretrained(args.model, args.device)
    serve(predictor, Path(args.model).name or args.model, port)
