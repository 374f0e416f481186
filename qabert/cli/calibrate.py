"""`qabert calibrate MODEL OUT --data FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qabert.cli.common import add_labelled, labelled_rows, model_parser, model_tasks, report_dropped
from qabert.errors import InputError
from qabert.files import check_new_folder


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = model_parser(
        "Fit a temperature to each task's probabilities, so that 70 % sure is right 7 times in 10; decisions stay.",
        sections=("input",),
    )
    parser.add_argument("output", help="folder for the calibrated model")
    add_labelled(parser)
    return parser


def run(argv: Sequence[str]) -> None:
    """Calibrate a model."""
    args = parser().parse_args(argv)
    from qabert.inference import Predictor
    from qabert.model_config import read_config

    config, output = read_config(args.model), Path(args.output)
    tasks = {k: v for k, v in model_tasks(config, args.model, args.tasks).items() if v.problem != "regression"}
    if not tasks:
        raise InputError(f"model '{args.model}': a regression has no probabilities, and there is no other task")
    check_new_folder(output)
    data = labelled_rows(tasks, args.data, args.split)
    for name in tasks:
        if (rows := len(data[name].splits[args.split])) < 10:
            raise InputError(f"task '{name}': {rows} rows with a label; expected 10 at least")
    from qabert.checkpoints import whole_folder
    from qabert.evaluation.calibration import calibration_table, measure
    from qabert.evaluation.scores import answer_rows

    predictor = Predictor.from_pretrained(args.model, args.device)
    model = predictor.model
    model.config.temperatures = None  # one that it has would be divided by twice
    measures = {}
    for name, task in tasks.items():
        rows = data[name].splits[args.split]
        report_dropped(name, data[name].dropped[args.split])
        measures[name] = measure(task, rows["label"], answer_rows(predictor, name, rows, args.batch_size))
    model.config.temperatures = {name: round(found["temperature"], 4) for name, found in measures.items()}
    with whole_folder(output) as part:
        model.save_pretrained(part)
        predictor.tokenizer.save_pretrained(part)
    print(calibration_table(measures))
    print(f"the calibrated model is in {output}; 'after' was measured on rows that the temperature wasn't fitted to")
