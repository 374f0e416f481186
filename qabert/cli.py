"""Commands: parse, call, print.  Heavy imports stand inside, so that `--help` is instant."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qabert.errors import InputError, unknown
from qabert.tasks import PAPER_TASKS, Task, load_tasks


def _run(command: Callable[[Sequence[str]], Any], argv: Sequence[str] | None) -> None:
    """Run a command; wrong input is one line on stderr and exit code 2."""
    # Python puts a script's folder first: `import evaluate` would find scripts/evaluate.py instead of the library.
    here = os.path.dirname(os.path.abspath(sys.argv[0]))
    sys.path[:] = [path for path in sys.path if path != here or not os.path.isfile(os.path.join(path, "evaluate.py"))]
    # The libraries' loading bars and reports would bury what is worth reading; set before they are imported.
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    try:
        command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # here, and not when Python ends, a reader that has gone can be told from an error
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `predict … | head`: the reader has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush goes nowhere
        sys.exit(141)


def _train(argv: Sequence[str]) -> None:
    from qabert.training.arguments import parse

    args = parse(argv, "Train one encoder on several sentence tasks, a head for each.")
    from qabert.training.run import train

    train(args)


def train_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/train.py RECIPE [--key value …]`."""
    _run(_train, argv)


def _evaluate(argv: Sequence[str]) -> None:
    parser = _parser("Score a trained model on labelled rows.")
    parser.add_argument("--data", help="folder of data files, 'hub' or 'demo'")
    parser.add_argument("--split", default="dev", choices=["train", "dev", "test"], help="which rows [dev]")
    parser.add_argument("--tasks", help="some of the model's tasks, or a YAML file that says where their files are")
    parser.add_argument("--output_dir", help="write metrics.json and predictions/ there")
    parser.add_argument("--strict", action="store_true", help="stop at the first broken row")
    args = parser.parse_args(argv)
    from qabert.files import check_place, whole_file
    from qabert.inference import Predictor, read_config

    tasks = _model_tasks(read_config(args.model), args.model, args.tasks)
    if args.output_dir:
        check_place(Path(args.output_dir), folder=True)
    from qabert.data.sources import load_task

    data = {
        name: load_task(task, args.data, (args.split,), strict=args.strict, labelled=(args.split,))
        for name, task in tasks.items()
    }
    for name in tasks:
        if args.split not in data[name].splits:
            raise InputError(f"task '{name}', key 'files': no file is declared for the split '{args.split}'")
    predictor = Predictor.from_pretrained(args.model, args.device)
    from qabert.evaluation.metrics import multitask_score
    from qabert.evaluation.scores import answer_rows, result_table, score_answers

    answers, scores = {}, {}
    for name, task in tasks.items():
        rows = data[name].splits[args.split]
        _report_dropped(name, data[name].dropped[args.split])
        answers[name] = answer_rows(predictor, name, rows, args.batch_size)
        scores[name] = score_answers(task, answers[name], rows["label"])
    print(result_table(tasks, {"model": scores}, args.split))
    if args.output_dir:
        import json

        from qabert.inference import write_predictions

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


def _predict(argv: Sequence[str]) -> None:
    parser = _parser("Ask a trained model.")
    parser.add_argument("sentences", nargs="*", help="one sentence, or the two of a pair")
    parser.add_argument("--task", help="which task answers; may be left out where the model has one")
    parser.add_argument(
        "--file", help="rows: csv, tsv, jsonl, parquet, or text ('-': standard input) with a row a line"
    )
    parser.add_argument("--output", help="write a CSV of answers there instead of printing JSON lines")
    parser.add_argument("--data", help="write the course's submission files for this folder's dev and test rows")
    parser.add_argument("--output_dir", help="with --data: where to [predictions]")
    args = parser.parse_intermixed_args(argv)  # sentences may stand before or after the flags
    given = [name for name, value in vars(args).items() if name in ("sentences", "file", "data") and value]
    if len(given) != 1:
        raise InputError("give one of: a sentence (or two), --file, --data" + (f"; got {given}" if given else ""))
    if args.output_dir is not None and not args.data:
        raise InputError("--output_dir goes with --data; answers to sentences and files go to --output")
    if args.output is not None and args.data:
        raise InputError("--output goes with sentences and --file; with --data use --output_dir")
    from qabert.files import check_place
    from qabert.inference import Predictor, read_config

    tasks = _model_tasks(read_config(args.model), args.model, args.task)
    if args.data:
        output_dir = Path(args.output_dir or "predictions")
        check_place(output_dir, folder=True)
        from qabert.submissions import write_submissions

        for path in write_submissions(args.model, tasks, args.data, output_dir, args.batch_size, args.device):
            print(path)
        return
    if len(tasks) > 1:
        raise InputError(f"this model has several tasks; name one with --task: {', '.join(tasks)}")
    (task,) = tasks.values()
    from qabert.submissions import file_rows, sentence_row, write_answers

    # All of the input is read and checked before the model is loaded.
    if args.output:
        check_place(Path(args.output))
    rows = file_rows(args.file, task) if args.file else [sentence_row(args.sentences, task)]
    predictor = Predictor.from_pretrained(args.model, args.device)
    write_answers(predictor, task, rows, Path(args.output) if args.output else None, args.batch_size)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("model", help="folder that training wrote, or a hub name")
    parser.add_argument("--batch_size", type=_positive, default=64, help="rows per encoder call [64]")
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number over 0")
    return int(text)


def _model_tasks(config: Any, model: str, chosen: str | None) -> dict[str, Task]:
    """The model's tasks, or the chosen ones; where their rows are is taken from the paper's or from a YAML file."""
    own = {values["name"]: Task.from_dict(values, f"model '{model}'") for values in config.tasks}
    places = dict(PAPER_TASKS)
    names = list(own)
    if chosen is not None and chosen.endswith((".yaml", ".yml")):
        places = load_tasks(chosen)
        names = list(places)
    elif chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
    for name in names:
        if name not in own:
            raise unknown("task", name, own, f"model '{model}'")
    return {
        name: dataclasses.replace(own[name], files=places[name].files, hub=places[name].hub)
        if name in places
        else own[name]
        for name in names
    }


def _report_dropped(task: str, dropped: Sequence[Any]) -> None:
    for item in dropped[:10]:
        print(f"{task}: dropped {item}", file=sys.stderr)
    if len(dropped) > 10:
        print(f"{task}: and {len(dropped) - 10} more rows dropped", file=sys.stderr)


def evaluate_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/evaluate.py MODEL --data FOLDER`."""
    _run(_evaluate, argv)


def predict_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/predict.py MODEL --task sst "a sentence"`."""
    _run(_predict, argv)
