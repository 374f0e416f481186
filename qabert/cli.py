"""Commands: parse, call, print.  Heavy imports stand inside, so that `--help` is instant."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qabert.errors import InputError, RunError, Stopped, is_unicode, printable, unknown
from qabert.files import DISK_ERRORS, check_place
from qabert.processes import launched_processes
from qabert.tasks import PAPER_TASKS, Task, load_tasks


def run_command(command: Callable[[Sequence[str]], Any], argv: Sequence[str] | None) -> None:
    """Run a command.  Wrong input is one line on stderr and exit code 2; a run that broke off, one line and code 1."""
    # Python puts a script's folder first: `import evaluate` would find scripts/evaluate.py instead of the library.
    here = os.path.dirname(os.path.abspath(sys.argv[0]))
    sys.path[:] = [path for path in sys.path if path != here or not os.path.isfile(os.path.join(path, "evaluate.py"))]
    # The libraries' loading bars and reports would bury what is worth reading; set before they are imported.
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    try:
        words = sys.argv[1:] if argv is None else argv
        _check_words(words)
        command(words)
        sys.stdout.flush()  # here, and not when Python ends, a reader that has gone can be told from an error
    except (InputError, RunError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(stopped.message, file=sys.stderr, flush=True)
        raise
    except BrokenPipeError:  # `predict … | head`: the reader has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush goes nowhere
        sys.exit(141)
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:
            raise
        print(f"error: {printable(f'{error.filename}: {error.strerror}')}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _check_words(words: Sequence[str]) -> None:
    for number, word in enumerate(words, 1):
        if re.fullmatch(r"--[\w-]+=--", word):  # argparse would make an empty list of it
            raise InputError(f"{word}: expected a value after '='")
        if not is_unicode(word):  # bytes that are no UTF-8
            raise InputError(f"argument {number} of the command line is not Unicode text: {word!a}; expected UTF-8")


def _train(argv: Sequence[str]) -> None:
    from qabert.training.arguments import parse

    args = parse(argv, "Train one encoder on several sentence tasks, a head for each.")
    from qabert.training.run import train

    train(args)


def train_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/train.py RECIPE [--key value …]`."""
    run_command(_train, argv)


def _evaluate(argv: Sequence[str]) -> None:
    parser = _parser("Score a trained model on labelled rows.")
    parser.add_argument("--data", help="folder of data files, 'hub' or 'demo'")
    parser.add_argument("--split", default="dev", choices=["train", "dev", "test"], help="which rows [dev]")
    parser.add_argument("--tasks", help="some of the model's tasks, or a YAML file that says where their files are")
    parser.add_argument("--output_dir", help="write metrics.json and predictions/ there")
    parser.add_argument("--figures", help="draw label shares, confusions, errors and calibration there, as PNG and SVG")
    parser.add_argument("--strict", action="store_true", help="stop at the first broken row")
    _add_dtype(parser)
    args = parser.parse_args(argv)
    from qabert.files import whole_file
    from qabert.inference import Predictor, read_config
    from qabert.processes import launched

    tasks = _model_tasks(read_config(args.model), args.model, args.tasks)
    for place in filter(None, (args.output_dir, args.figures)):
        check_place(Path(place), folder=True)
    processes = launched()
    if args.figures:
        from qabert.evaluation.figures import model_figures, require_matplotlib

        require_matplotlib()
    from qabert.data.sources import load_task

    data = {
        name: load_task(task, args.data, (args.split,), strict=args.strict, labelled=(args.split,), cache=True)
        for name, task in tasks.items()
    }
    for name in tasks:
        if args.split not in data[name].splits:
            raise InputError(f"task '{name}', key 'files': no file is declared for the split '{args.split}'")
    predictor = Predictor.from_pretrained(args.model, args.device, processes, args.dtype)
    from qabert.evaluation.metrics import multitask_score
    from qabert.evaluation.scores import answer_rows, result_table, score_answers

    answers, scores = {}, {}
    for name, task in tasks.items():
        rows = data[name].splits[args.split]
        if processes.main:
            _report_dropped(name, data[name].dropped[args.split])
        answers[name] = answer_rows(predictor, name, rows, args.batch_size)
        if processes.main:
            scores[name] = score_answers(task, answers[name], rows["label"])
    if not processes.main:
        return
    print(result_table(tasks, {"model": scores}, args.split))
    if args.output_dir:
        import json

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
    _add_dtype(parser)
    args = parser.parse_intermixed_args(argv)  # sentences may stand before or after the flags
    given = [name for name, value in vars(args).items() if name in ("sentences", "file", "data") and value]
    if len(given) != 1:
        raise InputError("give one of: a sentence (or two), --file, --data" + (f"; got {given}" if given else ""))
    if args.output_dir is not None and not args.data:
        raise InputError("--output_dir goes with --data; answers to sentences and files go to --output")
    if args.output is not None and args.data:
        raise InputError("--output goes with sentences and --file; with --data use --output_dir")
    from qabert.inference import Predictor, read_config
    from qabert.processes import launched

    tasks = _model_tasks(read_config(args.model), args.model, args.task)
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


def _explain(argv: Sequence[str]) -> None:
    parser = _parser("Show which words an answer comes from, for one row or over a sample of dev rows.", batch_size=8)
    parser.add_argument("sentences", nargs="*", help="one sentence, or the two of a pair")
    parser.add_argument("--task", help="which task answers; with --data some of them (sst,sts) or a YAML file")
    parser.add_argument("--methods", default="rollout,gradients", help="some of rollout,gradients [both]")
    parser.add_argument("--steps", type=_positive, default=32, help="points of the gradients' integral [32]")
    parser.add_argument("--html", help="write a heat map of the words there")
    parser.add_argument("--png", help="write a bar for each word there")
    parser.add_argument("--data", help="explain dev rows of this folder, of 'hub' or 'demo' instead")
    parser.add_argument(
        "--rows", type=_positive, default=200, help="with --data: rows of each task, drawn at random [200]"
    )
    parser.add_argument("--seed", type=int, default=1, help="with --data: of the drawing [1]")
    parser.add_argument("--output_dir", help="with --data: where to write saliency.json and saliency.html")
    args = parser.parse_intermixed_args(argv)
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
    from qabert.inference import read_config

    config = read_config(args.model)
    tasks = _model_tasks(config, args.model, args.task)
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
        _report_dropped(name, loaded.dropped["dev"])
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


def _parser(description: str, batch_size: int = 64) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("model", help="folder that training wrote, or a hub name")
    parser.add_argument(
        "--batch_size", type=_positive, default=batch_size, help=f"rows per encoder call [{batch_size}]"
    )
    parser.add_argument("--device", help="cpu, cuda, …; a GPU if there is one")
    return parser


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16"],
        help="what the encoder computes in; bfloat16 is about twice as fast on GPUs and CPUs that have it, and changes "
        "answers a little [float32]",
    )


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


def _reproduce(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        usage="%(prog)s PLAN.yaml [--output_dir FOLDER] [--key VALUE …]",
        description="Train a plan's models side by side, over seeds, and write a report.  The same command goes on "
        "where an earlier one was cut off.  Plans are in scripts/reproductions.",
        epilog="Every key of scripts/train.py is a flag too and wins over the plan's settings (--data data/dfp …).",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", default="runs/reproduction", help="folder of runs and report [%(default)s]")
    parser.add_argument("--seeds", type=_seeds, help="seeds instead of the plan's: 1,2,3")
    parser.add_argument("--arms", type=lambda text: text.split(","), help="some of the plan's models: baseline,qa")
    parser.add_argument("--jobs", type=_positive, default=1, help="runs side by side, sharing the cores [1]")
    # As for training: after a flag that argparse doesn't know, the plan couldn't be told from the flag's value.
    plan_file, words = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    args, rest = parser.parse_known_args(words)
    if plan_file is None:
        raise InputError("give a plan first, such as scripts/reproductions/paper.yaml; then flags")
    from qabert.training.arguments import flag_pairs
    from qabert.training.plans import read_plan
    from qabert.training.reproduce import reproduce

    check_place(Path(args.output_dir), folder=True)
    plan = read_plan(Path(plan_file), flag_pairs(rest), args.seeds)
    command = shlex.join(["python", "scripts/reproduce.py", *argv])
    written = reproduce(plan, Path(args.output_dir), command=command, arms=args.arms, jobs=args.jobs)
    print(*(file for file in written if file.parent == Path(args.output_dir)), sep="\n")
    print(f"figures, as PNG and SVG, are in {Path(args.output_dir) / 'figures'}")


def _seeds(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers with commas between them")
    return [int(part) for part in text.split(",")]


def reproduce_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/reproduce.py PLAN.yaml --output_dir FOLDER`."""
    run_command(_reproduce, argv)


def evaluate_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/evaluate.py MODEL --data FOLDER`."""
    run_command(_evaluate, argv)


def predict_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/predict.py MODEL --task sst "a sentence"`."""
    run_command(_predict, argv)


def explain_main(argv: Sequence[str] | None = None) -> None:
    """`scripts/explain.py MODEL --task sst "a sentence"`."""
    run_command(_explain, argv)


def _arm(argv: Sequence[str]) -> None:
    from qabert.training.reproduce import run_arm

    run_arm(Path(argv[0]), argv[1], int(argv[2]))


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m qabert COMMAND …`: what the scripts do, without their paths."""
    argv = sys.argv[1:] if argv is None else list(argv)
    commands = {"train": _train, "evaluate": _evaluate, "predict": _predict, "explain": _explain}
    commands |= {"reproduce": _reproduce, "arm": _arm}  # `arm` is one run of a reproduction, which starts it
    if not argv or argv[0] not in commands:
        print(f"usage: python -m qabert {{{','.join(name for name in commands if name != 'arm')}}} …", file=sys.stderr)
        sys.exit(0 if argv[:1] in (["-h"], ["--help"]) else 2)
    sys.argv[0] = f"python -m qabert {argv[0]}"
    run_command(commands[argv[0]], argv[1:])
