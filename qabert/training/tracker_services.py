"""What TensorBoard, Weights & Biases, trackio and MLflow are each told of a run, and how."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml


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
