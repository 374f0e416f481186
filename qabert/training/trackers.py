"""TensorBoard, Weights & Biases, trackio and MLflow: one callback, the same names in each of them.

`train/loss`, `train/sts/loss`, `train/learning_rate`, `eval/score`, `eval/sts/pearson`, `eval/loss`, …, over the
optimizer's steps; `untrained/…` and `final/…` once, before and after training.  The Trainer's own integrations would
name some of these differently in each, log every task's evaluation twice, and end before the final scores are there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qabert.errors import InputError, unknown
from qabert.files import whole_file

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


@dataclass
class Run:
    """What a tracker is told of a run.

    Args:
        name: What to call it: `run_name`, or the output folder's name.
        project: What it belongs to: `project`, or "qabert".
        output: The run's folder.
        settings: All its keys.
        places: What the trackers called it before it was cut off, by tracker; each adds its own.
        step: Optimizer step that it goes on from.
    """

    name: str
    project: str
    output: Path
    settings: Mapping[str, Any]
    places: dict[str, str] = field(default_factory=dict)
    step: int = 0


class Tracker(ABC):
    """One service: begins with the run, takes numbers and pictures, ends with it."""

    package: ClassVar[str]

    def __init__(self, run: Run) -> None:
        self.run = run

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at an optimizer step."""

    @abstractmethod
    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        """PNG files by their names."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """End the run, as complete or as broken off."""


class TensorBoard(Tracker):
    """Event files in `OUTPUT/tensorboard`, or in `TENSORBOARD_LOGGING_DIR/NAME`."""

    package = "tensorboard"

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(run)
        shared = os.environ.get("TENSORBOARD_LOGGING_DIR")
        folder = Path(shared).expanduser() / run.name if shared else run.output / "tensorboard"
        # What an interrupted run logged after its checkpoint is shown no more.
        self.writer = SummaryWriter(str(folder), purge_step=run.step + 1 if run.step else None)
        text = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
        self.writer.add_text("settings", "".join(f"    {line}\n" for line in text.splitlines()))
        self.final: dict[str, float] = {}

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.final |= {key: value for key, value in values.items() if key == "final/score"}
        self.writer.flush()

    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        import numpy as np
        from PIL import Image

        for name, path in files.items():
            with Image.open(path) as image:
                self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, failed: bool) -> None:
        if self.final:
            plain = {key: value for key, value in self.run.settings.items() if isinstance(value, str | int | float)}
            self.writer.add_hparams(plain, self.final, run_name=".")
        self.writer.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases; without a login or a network it is kept in `./wandb`, for `wandb sync`.

    `WANDB_MODE`, `WANDB_PROJECT`, `WANDB_DIR` and the rest of its environment mean what they mean there.
    """

    package = "wandb"

    def __init__(self, run: Run) -> None:
        import wandb

        super().__init__(run)
        given: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", run.project), "name": run.name, "config": dict(run.settings),
        }  # fmt: skip
        if place := run.places.get("wandb"):
            given |= {"id": place, "resume": "allow"}
        if "WANDB_MODE" not in os.environ and not wandb.login(prompt=False, verify=False):
            print("wandb: not logged in (`wandb login`), so the run is kept here: send it with `wandb sync` later")
            given["mode"] = "offline"
        try:
            self.wandb = wandb.init(**given, settings=wandb.Settings(init_timeout=30))
        except wandb.errors.CommError as error:
            print(f"wandb: {str(error).splitlines()[0]}; the run is kept here: send it with `wandb sync` later")
            self.wandb = wandb.init(**given | {"mode": "offline"})
        run.places["wandb"] = self.wandb.id
        # Not wandb's own step, which can't go back to a checkpoint's.
        self.wandb.define_metric("train/global_step")
        self.wandb.define_metric("*", step_metric="train/global_step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.wandb.log({**values, "train/global_step": step})

    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        import wandb

        shown = {name: wandb.Image(str(path)) for name, path in files.items()}
        self.wandb.log({**shown, "train/global_step": step})

    def close(self, failed: bool) -> None:
        self.wandb.finish(exit_code=int(failed))


class Trackio(Tracker):
    """A run of trackio, in its local database (`trackio show`), or in a Space with the key `trackio_space_id`."""

    package = "trackio"

    def __init__(self, run: Run) -> None:
        import trackio

        super().__init__(run)
        self.trackio = trackio.init(
            project=run.project,
            name=run.places.get("trackio", run.name),
            config=json.loads(json.dumps(run.settings, default=str)),
            space_id=run.settings.get("trackio_space_id"),
            resume="allow" if "trackio" in run.places else "never",
            embed=False,
        )
        run.places["trackio"] = self.trackio.name

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.trackio.log(dict(values), step=step)

    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        import trackio

        self.trackio.log({name: trackio.Image(str(path)) for name, path in files.items()}, step=step)

    def close(self, failed: bool) -> None:
        self.trackio.finish()


class MLflow(Tracker):
    """A run of MLflow, where `MLFLOW_TRACKING_URI` says, or in `./mlflow.db`.

    Its experiment is `MLFLOW_EXPERIMENT_NAME`, or else the project.
    """

    package = "mlflow"

    def __init__(self, run: Run) -> None:
        # Before the import: a server that doesn't answer would hold a run up for many minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow
        from mlflow.entities import Param

        super().__init__(run)
        self.client = mlflow.MlflowClient()
        if "mlflow" in run.places:
            self.id = run.places["mlflow"]
            self.client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project)
        experiment = self.client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self.client.create_experiment(name)
        self.id = run.places["mlflow"] = self.client.create_run(place, run_name=run.name).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in run.settings.items()]
        for first in range(0, len(params), 100):  # as many as it takes at once
            self.client.log_batch(self.id, params=params[first : first + 100])

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(key, float(value), now, step) for key, value in values.items()])

    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        for name, path in files.items():
            self.client.log_artifact(self.id, str(path), str(Path(name).parent))

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


#: By their names in `report_to`.
TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio, "mlflow": MLflow,
}  # fmt: skip


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
