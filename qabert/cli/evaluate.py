"""`qabert evaluate MODEL --data FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qabert.cli.common import (
    add_dtype,
    add_labelled,
    labelled_rows,
    model_parser,
    model_tasks,
    positive,
    report_dropped,
    section,
)
from qabert.files import check_place


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = model_parser("Score a trained model on labelled rows.", sections=("input", "output"))
    add_labelled(parser)
    written = section(parser, "output")
    written.add_argument("--output_dir", help="write metrics.json and predictions/ there")
    written.add_argument(
        "--figures", help="draw label shares, confusions, errors and calibration there, as PNG and SVG"
    )
    written.add_argument(
        "--worst", type=positive, metavar="N", help="print the N rows of each task that its answers are furthest from"
    )
    section(parser, "input").add_argument("--strict", action="store_true", help="stop at the first broken row")
    add_dtype(parser)
    return parser


def run(argv: Sequence[str]) -> None:
    """Score a model."""
    import json

    args = parser().parse_args(argv)
    from qabert.files import whole_file
    from qabert.inference import Predictor
    from qabert.model_config import read_config
    from qabert.processes import launched

    tasks = model_tasks(read_config(args.model), args.model, args.tasks)
    for place in filter(None, (args.output_dir, args.figures)):
        check_place(Path(place), folder=True)
    processes = launched()
    if args.figures:
        from qabert.evaluation.figures import model_figures, require_matplotlib

        require_matplotlib()
    data = labelled_rows(tasks, args.data, args.split, args.strict)
    predictor = Predictor.from_pretrained(args.model, args.device, processes, args.dtype)
    from qabert.evaluation.metrics import multitask_score
    from qabert.evaluation.scores import answer_rows, result_table, score_answers

    answers, scores = {}, {}
    for name, task in tasks.items():
        rows = data[name].splits[args.split]
        if processes.main:
            report_dropped(name, data[name].dropped[args.split])
        answers[name] = answer_rows(predictor, name, rows, args.batch_size)
        if processes.main:
            scores[name] = score_answers(task, answers[name], rows["label"])
    if not processes.main:
        return
    print(result_table(tasks, {"model": scores}, args.split))
    if args.worst:
        from qabert.evaluation.mistakes import worst_rows

        for name, task in tasks.items():
            for line in worst_rows(task, data[name].splits[args.split], answers[name], args.worst):
                print(json.dumps(line, ensure_ascii=False))
    if args.output_dir:
        from qabert.answers import write_predictions

        output = Path(args.output_dir)
        for name, task in tasks.items():
            rows = data[name].splits[args.split]
            write_predictions(
                output / "predictions" / f"{name}-{args.split}.csv", task, rows["id"], answers[name], rows["label"]
            )
        with whole_file(output / "metrics.json") as file:
            score = multitask_score({name: scores[name][task.score] for name, task in tasks.items()})
            json.dump({"split": args.split, "score": score, "scores": scores}, file, indent=2)
        print(f"metrics.json and predictions/ are in {output}")
    if args.figures:
        labels = {name: data[name].splits[args.split]["label"] for name in tasks}
        paths = model_figures(tasks, labels, answers, Path(args.figures))
        print(f"{len(paths) // 2} figures, as PNG and SVG, are in {args.figures}")
