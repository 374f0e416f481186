"""Examples and seconds until runs first had a score: `python -m qabert.benchmark.quality RUN …`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qabert.checkpoints import checkpoints
from qabert.errors import InputError
from qabert.tables import table
from qabert.yaml_files import read_yaml


@dataclass(frozen=True)
class Curve:
    """A run's scores during training.

    Args:
        name: The run's folder.
        examples: Rows that had been trained on at each evaluation.
        scores: By `task/metric`, the score of each evaluation; None where it has none.
        rate: Examples per second, evaluations included; None while the run isn't complete.
    """

    name: str
    examples: list[int]
    scores: dict[str, list[float | None]]
    rate: float | None

    def reached(self, key: str, score: float) -> int | None:
        """Examples until the first evaluation with at least that score, or None."""
        values = zip(self.examples, self.scores.get(key, []), strict=False)
        return next((examples for examples, value in values if value is not None and value >= score), None)


def read_curve(run: Path) -> Curve:
    """What a run's folder holds: of a complete run `metrics.json`, else its newest checkpoint.

    Raises:
        InputError: It holds neither.
    """
    rate = None
    if (run / "metrics.json").is_file():
        values = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        history, rate = values["history"], values["train_examples_per_second"] or None
    elif found := checkpoints(run):
        history = json.loads((found[-1] / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    else:
        raise InputError(f"{run}: holds no metrics.json and no checkpoint; expected the output_dir of a run")
    told = read_yaml(run / "arguments.yaml")
    sizes = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
    step_rows = 1
    for key in sizes:
        step_rows *= int(told.get(key) or 1)
    evaluations = [entry for entry in history if "eval_score" in entry]
    keys = dict.fromkeys(key for entry in evaluations for key in entry if "/" in key)
    return Curve(
        name=run.name,
        examples=[entry["step"] * step_rows for entry in evaluations],
        scores={key.removeprefix("eval_"): [entry.get(key) for entry in evaluations] for key in keys},
        rate=rate,
    )


def compare(curves: Sequence[Curve], goals: Mapping[str, Sequence[float]]) -> str:
    """A table of examples (and seconds) until each score, and how many times more than the last run's it was.

    Args:
        curves: The runs; the last one is what the others are compared with.
        goals: Scores by `task/metric`.
    """
    heads = ["dev score"]
    for curve in curves:
        heads += [f"{curve.name}: examples", "seconds", *(["times"] if curve is not curves[-1] else [])]
    lines = []
    for key, scores in goals.items():
        for score in scores:
            line = [f"{key} ≥ {score:g}"]
            last = curves[-1].reached(key, score)
            for curve in curves:
                examples = curve.reached(key, score)
                line.append("–" if examples is None else f"{examples:,}")
                line.append("–" if examples is None or not curve.rate else f"{examples / curve.rate:,.0f}")
                if curve is not curves[-1]:
                    line.append("–" if not examples or not last else f"{examples / last:.1f}")
            lines.append(line)
    return table(heads, lines)


def _goal(text: str) -> tuple[str, list[float]]:
    key, _, scores = text.partition("=")
    try:
        if "/" not in key:
            raise ValueError
        return key, [float(score) for score in scores.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected task/metric=score,score: sts/pearson=0.8,0.843") from None


def quality(argv: Sequence[str]) -> None:
    """Print the table of the runs that are named."""
    parser = argparse.ArgumentParser(prog="python -m qabert.benchmark.quality", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of runs; the last is compared with")
    parser.add_argument("--goal", action="append", type=_goal, required=True, help="sts/pearson=0.8,0.843; repeatable")
    args: Any = parser.parse_args(argv)
    print(compare([read_curve(run) for run in args.runs], dict(args.goal)))


if __name__ == "__main__":
    from qabert.cli import run_command

    run_command(quality, None)
