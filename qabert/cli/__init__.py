"""Commands: parse, call, print.  Heavy imports stand inside them, so that `--help` is instant."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import partial

from qabert.cli.common import run_command

#: Each command's module, which has `parser()` and `run(argv)`, and what it does.
COMMANDS = {
    "train": ("qabert.cli.train", "train one encoder on several tasks"),
    "evaluate": ("qabert.cli.evaluate", "score a model on labelled rows"),
    "predict": ("qabert.cli.predict", "answer sentences and files"),
    "merge": ("qabert.cli.merge", "make a whole model of an encoder and a LoRA run's adapter"),
    "average": ("qabert.cli.average", "write the mean of several models' weights"),
    "calibrate": ("qabert.cli.calibrate", "make a model's probabilities as sure as it is right"),
    "export": ("qabert.cli.export", "write a model as an ONNX file, or torch's .pt2"),
    "explain": ("qabert.cli.explain", "show which words an answer comes from"),
    "push": ("qabert.cli.push", "put a trained model on the hub"),
    "demo": ("qabert.cli.demo", "answer and explain sentences on a web page of this machine"),
    "reproduce": ("qabert.cli.reproduce", "train the paper's models side by side and write a report"),
    "sweep": ("qabert.cli.sweep", "search hyperparameters for the best score"),
    "benchmark": ("qabert.benchmark.command", "compare the speed with other packages'"),
    "completion": ("qabert.cli.completion", "print a script for the shell's completion"),
}
__all__ = ["COMMANDS", "main", "run", "run_command"]


def run(name: str, argv: Sequence[str] | None = None) -> None:
    """Run a command as its script does: `qabert.cli.run("train")` reads `sys.argv`."""
    module = importlib.import_module(COMMANDS[name][0])
    run_command(module.run, argv)


train_main = partial(run, "train")
evaluate_main = partial(run, "evaluate")
predict_main = partial(run, "predict")
explain_main = partial(run, "explain")
reproduce_main = partial(run, "reproduce")


def main(argv: Sequence[str] | None = None) -> None:
    """`qabert COMMAND …`: what the scripts do, without their paths."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name = argv[0] if argv else ""
    if name == "arm":  # one run of a reproduction, which starts it
        from qabert.cli.reproduce import arm

        run_command(arm, argv[1:])
        return
    if name in COMMANDS:
        called, sys.argv[0] = sys.argv[0], f"qabert {name}"  # what argparse calls itself
        try:
            run(name, argv[1:])
        finally:
            sys.argv[0] = called
        return
    if name == "--version":
        from qabert import __version__

        print(f"qabert {__version__}")
        return
    asked = name in ("-h", "--help")
    width = max(map(len, COMMANDS))
    lines = ["usage: qabert COMMAND …", "", *(f"  {key:{width}}  {what}" for key, (_, what) in COMMANDS.items())]
    lines += ["", "qabert COMMAND --help says more; several devices: accelerate launch scripts/COMMAND.py …"]
    if name and not asked:
        from qabert.errors import suggest

        lines.insert(0, f"error: unknown command '{name}'{suggest(name, COMMANDS)}")
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    sys.exit(0 if asked else 2)
