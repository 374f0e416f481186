"""`qabert predict MODEL --task sst "a sentence"`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qabert.cli.common import add_dtype, model_parser, model_tasks, section
from qabert.errors import InputError
from qabert.files import check_place
from qabert.processes import launched_processes


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = model_parser("Ask a trained model.", sections=("input", "output"))
    given, written = section(parser, "input"), section(parser, "output")
    parser.add_argument("sentences", nargs="*", help="one sentence, or the two of a pair")
    given.add_argument("--task", help="which task answers; may be left out where the model has one")
    given.add_argument("--file", help="rows: csv, tsv, jsonl, parquet, or text ('-': standard input) with a row a line")
    written.add_argument("--output", help="write a CSV of answers there instead of printing JSON lines")
    given.add_argument("--data", help="write the course's submission files for this folder's dev and test rows")
    written.add_argument("--output_dir", help="with --data: where to [predictions]")
    add_dtype(parser)
    return parser


def run(argv: Sequence[str]) -> None:
    """Answer sentences, a file's rows or a folder's."""
    args = parser().parse_intermixed_args(argv)  # sentences may stand before or after the flags
    given = [name for name, value in vars(args).items() if name in ("sentences", "file", "data") and value]
    if len(given) != 1:
        raise InputError("give one of: a sentence (or two), --file, --data" + (f"; got {given}" if given else ""))
    if args.output_dir is not None and not args.data:
        raise InputError("--output_dir goes with --data; answers to sentences and files go to --output")
    if args.output is not None and args.data:
        raise InputError("--output goes with sentences and --file; with --data use --output_dir")
    from qabert.inference import Predictor
    from qabert.model_config import read_config
    from qabert.processes import launched

    tasks = model_tasks(read_config(args.model), args.model, args.task)
    if args.data:
        output_dir = Path(args.output_dir or "predictions")
        check_place(output_dir, folder=True)
        from qabert.submissions import write_submissions

        settings = (args.batch_size, args.device, launched(), args.dtype)
        for path in write_submissions(args.model, tasks, args.data, output_dir, *settings):
            print(path)
        return
    if len(tasks) > 1:
        raise InputError(f"this model has several tasks; name one with --task: {', '.join(tasks)}")
    (task,) = tasks.values()
    from qabert.submissions import file_rows, sentence_row, write_answers

    # All of the input is read and checked before the model is loaded.
    if args.output:
        check_place(Path(args.output))
    if args.file == "-" and launched_processes() > 1:
        raise InputError("--file -: several processes can't share standard input; give a file")
    rows = file_rows(args.file, task) if args.file else [sentence_row(args.sentences, task)]
    predictor = Predictor.from_pretrained(args.model, args.device, launched(), args.dtype)
    write_answers(predictor, task, rows, Path(args.output) if args.output else None, args.batch_size)
