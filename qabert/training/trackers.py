"""TensorBoard, Weights & Biases, trackio and MLflow: one callback, the same names in each of them.

`train/loss`, `train/sts/loss`, `train/learning_rate`, `eval/score`, `eval/sts/pearson`, `eval/loss`, …, over the
optimizer's steps; `untrained/…` and `final/…` once, before and after training.  The Trainer's own integrations would
name some of these differently in each, log every task's evaluation twice, and end before the final scores are there.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qabert.errors import InputError, unknown
from qabert.files import whole_file
from qabert.training.tracker_services import TRACKERS, Run, Tracker

#: Where a run keeps what its trackers call it, so that a resumed run goes on in the same place.
PLACES = "trackers.json"
#: Said once by the Trainer of a whole run: a second `train/loss`, and a number that nobody looks for.
_UNTRACKED = {"train_loss", "total_flos"}


def tracked_names(logs: Mapping[str, Any]) -> dict[str, float]:
    """A log of the Trainer's under the names that trackers get.

    Example:
        >>> tracked_names({"eval_sts/pearson": 0.8, "eval_score": 0.7, "epoch": 1.0})
        {'eval/sts/pearson': 0.8, 'eval/score': 0.7, 'train/epoch': 1.0}
        >>> tracked_names({"loss": 1.5, "sts/loss": 1.2})
        {'train/loss': 1.5, 'train/sts/loss': 1.2}
    """
    # A training log has no score.  By the prefix alone, a task named eval_x couldn't be told from an evaluation.
    prefix = next((key.removesuffix("_score") for key in logs if "/" not in key and key.endswith("_score")), None)
    once = prefix not in (None, "eval")
    named = {}
    for key, value in logs.items():
        if not isinstance(value, int | float) or key in _UNTRACKED:
            continue
        if prefix is None or key == "epoch":
            named[f"train/{key.removeprefix('train_')}"] = value
        elif not (once and key.endswith(("_runtime", "_per_second"))):
            named[f"{prefix}/{key.removeprefix(f'{prefix}_')}"] = value
    return {key: value for key, value in named.items() if not (once and key == "train/epoch")}


def tracker_names(report_to: Any) -> tuple[list[str], list[str]]:
    """The trackers of a key `report_to` that are ours, and those that are left to the Trainer's own integrations.

    Args:
        report_to: A name, several with commas between them or as a list, "none", or "all": those of ours that are
            installed.

    Raises:
        InputError: No such tracker (the nearest one is suggested), or it isn't installed.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    words = report_to if isinstance(report_to, list) else str(report_to or "none").split(",")
    names = [str(word).strip() for word in words]
    installed = [name for name, kind in TRACKERS.items() if importlib.util.find_spec(kind.package)]
    if names == ["all"]:
        return installed, []
    names = list(dict.fromkeys(name for name in names if name not in ("none", "")))
    for name in names:
        if name not in {*TRACKERS, *INTEGRATION_TO_CALLBACK}:
            raise unknown("tracker", name, {*TRACKERS, *INTEGRATION_TO_CALLBACK, "all", "none"}, "key 'report_to'")
        if name in TRACKERS and name not in installed:
            raise InputError(
                f"key 'report_to': '{name}' needs {TRACKERS[name].package}, which isn't installed: "
                'pip install -e ".[trackers]"'
            )
    return [name for name in names if name in TRACKERS], [name for name in names if name not in TRACKERS]


class Trackers(TrainerCallback):
    """Sends a run's numbers and pictures to its trackers; also a context, whose end is the run's end.

    A tracker that fails says so once and is left out from there on: it never ends a run.

    Args:
        names: Some of `TRACKERS`; empty on every process but the main one.
        args: The Trainer's arguments.
        output: The run's folder.
        settings: The run's keys, for the trackers' configuration.
    """

    def __init__(
        self, names: Sequence[str], args: TrainingArguments, output: Path, settings: Mapping[str, Any]
    ) -> None:
        project = "qabert" if args.project == "huggingface" else args.project
        self.run = Run(args.run_name or output.resolve().name, project, output, settings)
        self.names = list(names)
        self.trackers: dict[str, Tracker] | None = None
        self._early: list[tuple[dict[str, float], int]] = []  # logged before it is known where the run goes on from
        self.step = 0

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        failed = kind is not None and kind.__name__ != "TrialPruned"  # a sweep's trial that isn't worth its end
        self._each(lambda tracker: tracker.close(failed))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin, or go on where the run was cut off."""
        if self.trackers is not None or not self.names:
            return
        self.run.step = state.global_step
        path = self.run.output / PLACES
        if path.is_file():
            self.run.places = json.loads(path.read_text(encoding="utf-8"))
        self.trackers = {}
        for name in self.names:
            self._guarded(name, lambda name=name: self.trackers.update({name: TRACKERS[name](self.run)}))  # type: ignore[misc]
        with whole_file(path) as file:
            json.dump(self.run.places, file)
        early, self._early = self._early, []
        for values, step in early:
            self._each(lambda tracker, values=values, step=step: tracker.log(values, step))  # type: ignore[misc]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Send the numbers."""
        values, self.step = tracked_names(logs or {}), state.global_step
        if self.trackers is None and self.names:
            self._early.append((values, self.step))
        elif values:
            self._each(lambda tracker: tracker.log(values, self.step))

    def pictures(self, draw: Callable[[Path], Any]) -> None:
        """Send what `draw` writes into the folder that it is given, PNG files; nothing is drawn where nobody looks."""
        if not self.trackers:
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                draw(Path(folder))
            except InputError as error:  # no matplotlib
                print(f"no figures for {', '.join(self.trackers)}: {error}")
                return
            files = {f"figures/{path.stem}": path for path in sorted(Path(folder).glob("*.png"))}
            self._each(lambda tracker: tracker.pictures(files, self.step))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list((self.trackers or {}).items()):
            self._guarded(name, lambda tracker=tracker: act(tracker))  # type: ignore[misc]

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # theirs: whatever four clients raise
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            print(f"warning: {name} doesn't take this run any more, which goes on without it: {said}", flush=True)
            (self.trackers or {}).pop(name, None)
