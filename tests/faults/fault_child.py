"""A training run in a process of its own, which tells its moments through a pipe.  Imports nothing heavy itself."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_child(words: list[str], environment: dict[str, str], log: str, pipe: Any) -> None:
    """`scripts/train.py WORDS` in this process; its output goes to the file `log`, its moments to `pipe`, if any."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    # Python's own streams may be somebody's else who started the server.
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.update(environment)
    if pipe is not None:
        install(lambda *event: pipe.send_bytes(json.dumps([time.monotonic(), *event]).encode()))
    from qabert.cli import train_main

    sys.argv = ["train.py"]
    train_main(words)
    sys.stdout.flush()


def install(tell: Callable[..., None]) -> None:
    """Let this process tell `(name, stage, step, task)` at its moments.

    Names are `step` (one begins), and with `+` and `-` for begin and end: `run`, `evaluation`, `save` (a checkpoint),
    `model` (the final one), `stage` (the writing of the finished triplet stage).
    """
    from qabert.training import run, triplets
    from qabert.training.step_trainer import StepTrainer
    from qabert.training.trainer import QABertTrainer

    def stage(trainer: Any) -> str:
        return "tasks" if isinstance(trainer, QABertTrainer) else "triplet"

    def around(owner: Any, attribute: str, name: str) -> None:
        function = getattr(owner, attribute)

        def call(*args: Any, **kwargs: Any) -> Any:
            trainer = args[0] if args and isinstance(args[0], StepTrainer) else None
            where = ("", 0) if trainer is None else (stage(trainer), trainer.state.global_step)
            tell(f"{name}+", *where, None)
            result = function(*args, **kwargs)
            tell(f"{name}-", *where, None)
            return result

        setattr(owner, attribute, call)

    around(run, "_train", "run")
    around(QABertTrainer, "evaluate", "evaluation")
    around(StepTrainer, "_save_checkpoint", "save")
    around(StepTrainer, "save_whole_model", "model")
    step, whole_folder = StepTrainer.training_step, triplets.whole_folder
    last: list[Any] = [None]

    def stepping(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **kwargs: Any) -> Any:
        now = [stage(self), self.state.global_step]
        if now != last[0]:  # and not another of its accumulated batches
            last[0] = now
            tell("step", *now, inputs.get("task"))
        return step(self, model, inputs, *rest, **kwargs)

    @contextlib.contextmanager
    def telling_folder(place: Path, *args: Any, **kwargs: Any) -> Any:
        tell("stage+", "triplet", 0, None)
        with whole_folder(place, *args, **kwargs) as part:
            yield part

    train_triplets = run.train_triplets

    def told_triplets(*args: Any, **kwargs: Any) -> Any:
        result = train_triplets(*args, **kwargs)
        tell("stage-", "triplet", 0, None)
        return result

    StepTrainer.training_step = stepping  # type: ignore[method-assign]
    triplets.whole_folder = telling_folder
    run.train_triplets = told_triplets
