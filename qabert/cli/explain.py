"""`qabert explain MODEL --task sst "a sentence"`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qabert.cli.common import model_parser, model_tasks, positive, report_dropped, section
from qabert.errors import InputError
from qabert.files import check_place
from qabert.processes import launched_processes
from qabert.tasks import Task


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = model_parser(
        "Show which words an answer comes from, for one row or over a sample of dev rows.",
        batch_size=8,
        sections=("one row", "many rows"),
    )
    one, many, computing = (section(parser, title) for title in ("one row", "many rows", "computing"))
    parser.add_argument("sentences", nargs="*", help="one sentence, or the two of a pair")
    parser.add_argument("--task", help="which task answers; with --data some of them (sst,sts) or a YAML file")
    computing.add_argument("--methods", default="rollout,gradients", help="some of rollout,gradients [both]")
    computing.add_argument("--steps", type=positive, default=32, help="points of the gradients' integral [32]")
    one.add_argument("--html", help="write a heat map of the words there")
    one.add_argument("--png", help="write a bar for each word there")
    many.add_argument("--data", help="explain dev rows of this folder, of 'hub' or 'demo'")
    many.add_argument("--rows", type=positive, default=200, help="rows of each task, drawn at random [200]")
    many.add_argument("--seed", type=int, default=1, help="with --data: of the drawing [1]")
    many.add_argument("--output_dir", help="with --data: where to write saliency.json and saliency.html")
    return parser


def run(argv: Sequence[str]) -> None:
    """Explain one answer, or those of many rows."""
    args = parser().parse_intermixed_args(argv)
    if bool(args.sentences) == bool(args.data):
        raise InputError("give either a sentence (or two) or --data")
    if bool(args.output_dir) != bool(args.data):
        raise InputError("--data and --output_dir go together; for one row use --html and --png")
    if args.data and (args.html or args.png):
        raise InputError("--html and --png go with sentences; with --data use --output_dir")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: expected a whole number from 0")
    if launched_processes() > 1:
        raise InputError("rows are explained by one process: start it without torchrun")
    from qabert.evaluation.saliency.methods import check_methods

    methods = [name.strip() for name in args.methods.split(",")]
    check_methods(methods)
    for place, folder in ((args.html, False), (args.png, False), (args.output_dir, True)):
        if place:
            check_place(Path(place), folder=folder)
    from qabert.model_config import read_config

    config = read_config(args.model)
    tasks = model_tasks(config, args.model, args.task)
    if args.data:
        _explain_data(args, config.input_format, tasks, methods)
        return
    if args.png:
        from qabert.evaluation.figures.style import require_matplotlib

        require_matplotlib()
    if len(tasks) > 1:
        raise InputError(f"this model has several tasks; name one with --task: {', '.join(tasks)}")
    (task,) = tasks.values()
    from qabert.submissions import sentence_row

    row = sentence_row(args.sentences, task)
    from qabert.evaluation.saliency.explanations import explain
    from qabert.evaluation.saliency.pages import explanation_html, explanation_text
    from qabert.files import whole_file
    from qabert.inference import Predictor

    explanation = explain(Predictor.from_pretrained(args.model, args.device), task.name, *row, methods, args.steps)
    print(explanation_text(explanation))
    if args.html:
        with whole_file(Path(args.html)) as file:
            file.write(explanation_html([explanation]))
    if args.png:
        from qabert.evaluation.saliency.figures import explanation_figure, write_png

        write_png(explanation_figure(explanation), Path(args.png))


def _explain_data(args: argparse.Namespace, input_format: str, tasks: dict[str, Task], methods: list[str]) -> None:
    from qabert.data.sources import load_task

    data = {name: load_task(task, args.data, ("dev",), labelled=(), cache=True) for name, task in tasks.items()}
    for name, loaded in data.items():
        report_dropped(name, loaded.dropped["dev"])
    from qabert.evaluation.saliency.explanations import explain_rows, sample_rows
    from qabert.evaluation.saliency.pages import summary_text, write_summary
    from qabert.inference import Predictor

    predictor = Predictor.from_pretrained(args.model, args.device)
    explained = {}
    for name, loaded in data.items():
        rows = sample_rows(loaded.splits["dev"], args.rows, args.seed)
        explained[name] = explain_rows(predictor, name, rows, methods, args.steps, args.batch_size)
    settings = {"input_format": input_format, "split": "dev", "seed": args.seed, "steps": args.steps}
    print(summary_text(write_summary(Path(args.output_dir), settings, explained)))
    print("in brackets: the share of one token")
    print(f"saliency.json and saliency.html are in {args.output_dir}")
