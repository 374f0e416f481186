"""`qabert push FOLDER OWNER/NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description="Put a trained model on the hub, with its code, card, scores and predictions.  The token is "
        "HF_TOKEN's or that of 'hf auth login'.  After a failure the same command goes on: what has arrived isn't sent "
        "again.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="folder that training wrote")
    parser.add_argument("name", help="owner/name of the repository, which is made if there is none")
    parser.add_argument("--private", action="store_true", help="make it a private one")
    return parser


def run(argv: Sequence[str]) -> None:
    """Push a folder."""
    args = parser().parse_args(argv)
    from qabert.hub.card import CARD, write_card
    from qabert.hub.push import check_repo_id, push_to_hub

    check_repo_id(args.name)
    folder = Path(args.folder)
    if (folder / "metrics.json").is_file() and not (folder / CARD).exists():  # a run of before there were cards
        write_card(folder)
    print(push_to_hub(folder, args.name, args.private or None))
