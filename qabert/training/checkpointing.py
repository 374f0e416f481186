"""Checkpoints that are whole, hold no pickle, and from which a run goes on as if it had never stopped."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState

from qabert.checkpoints import CHECKSUMS, checkpoints, newest_whole, problem, rotate, whole_folder
from qabert.errors import InputError, RunError
from qabert.training.state_files import load_state, save_state

#: Optimizer, schedule and scaler of a checkpoint; and the sums of one process.
STATE, SUMS = "optimizer.safetensors", "process-{}.safetensors"
#: Where the model's files wait until all of them are whole.
MODEL = ".model.part"


class CheckpointedTrainer(Trainer):
    """A `Trainer` whose checkpoints are whole or absent.

    Overrides, each with its reason:
        `_save_checkpoint`, `_save`: written beside their place, listed with checksums, renamed; no pickle in them.
        `_init_training_state`: the best checkpoint is looked for beside the one that the run goes on from.
        `_finalize_training`: the last checkpoint stays, whichever is the best.
        `_save_optimizer_and_scheduler`, `_load_optimizer_and_scheduler`, `_save_scaler`, `_load_scaler`: safetensors.
        `_save_rng_state`, `_load_rng_state`: not needed, every step has a seed of its own.
    """

    #: Whether the checkpoint that the run goes on from was its last.
    finished = False
    #: That checkpoint.
    resumed: Path | None = None
    _earlier = _begun = 0.0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        output = Path(self._get_output_dir(trial))
        place = output / f"checkpoint-{self.state.global_step}"
        self.store_flos()
        try:
            with whole_folder(place, self.args.should_save, self.accelerator.wait_for_everyone) as part:
                self.save_model(str(part), _internal_call=True)
                if not self.args.save_only_model:
                    self._save_optimizer_and_scheduler(str(part))
                    save_state(part / SUMS.format(self.args.process_index), self._sums())
                best = output / f"checkpoint-{self.state.best_global_step}"
                if best == place or best.is_dir():
                    self.state.best_model_checkpoint = str(best)
                if self.args.should_save:
                    callbacks: Any = [*self.callback_handler.callbacks, self.control]
                    states: Any = self.state.stateful_callbacks
                    states.update({type(c).__name__: c.state() for c in callbacks if isinstance(c, ExportableState)})
                    self.state.save_to_json(str(part / TRAINER_STATE_NAME))
            if self.args.should_save:
                rotate(output, self.args.save_total_limit, self.state.best_model_checkpoint)
        except (OSError, SafetensorError) as error:
            kept = newest_whole(output, tell=lambda _: None)
            raise RunError(
                f"{place} can't be written: {getattr(error, 'strerror', None) or error}. "
                f"{f'{kept} is whole' if kept else 'There is no earlier checkpoint'}; make room (or the folder "
                "writable), then the same command with --resume auto goes on"
            ) from error

    def save_whole_model(self, output: Path) -> None:
        """Write the model and its tokenizer into a folder that may hold other files; their checksums come last.

        To be called on every process: FSDP gathers the weights from all of them.
        """
        with whole_folder(output / MODEL, self.args.should_save, self.accelerator.wait_for_everyone) as part:
            self.save_model(str(part))
        if self.args.should_save:
            files = sorted((output / MODEL).iterdir(), key=lambda path: path.name == CHECKSUMS)
            for path in files:
                path.replace(output / path.name)
            (output / MODEL).rmdir()
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        try:
            super()._save(output_dir, state_dict)
        except Exception as error:  # a full disk is an error of its own kind in safetensors, tokenizers and torch
            number = re.search(r"os error (\d+)", str(error))
            if isinstance(error, OSError) or not (number or "inline_container" in str(error)):
                raise
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code) if number else str(error), output_dir) from error
        if self.args.should_save:  # a pickle, and it names folders of this machine
            Path(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _sums(self) -> dict[str, Any]:
        """What this process has added up since the last log."""
        return {
            "finished": self.control.should_training_stop or self.state.global_step >= self.state.max_steps,
            "loss": self._tr_loss,
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
            "seconds": self.seconds,
            "own": self.sums(),
        }

    @property
    def seconds(self) -> float:
        """Since training began; of a run that went on, with those until the checkpoint that it went on from."""
        return self._earlier + time.monotonic() - self._begun

    def sums(self) -> dict[str, Any]:
        """A subclass's own sums, for `restore_sums`."""
        return {}

    def restore_sums(self, sums: dict[str, Any]) -> None:
        """Take up what `sums` gave to a checkpoint."""

    def restore_progress(self) -> None:
        """At the start of training: take up the sums of the checkpoint that the run goes on from."""
        self.finished = False
        self._earlier, self._begun = 0.0, time.monotonic()
        if self.resumed is None or not (self.resumed / SUMS.format(0)).is_file():
            return
        sums = load_state(self.resumed / SUMS.format(0))  # what all processes have to agree on
        self.finished = sums["finished"]
        self._globalstep_last_logged = sums["logged_step"]
        self._earlier = sums["seconds"]
        path = self.resumed / SUMS.format(self.args.process_index)
        if path.is_file():  # there may have been fewer processes
            sums = load_state(path)
            self._tr_loss = sums["loss"].to(self.args.device)
            self._total_loss_scalar = sums["logged_loss"]
            self.restore_sums(sums["own"])

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        begun = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial)
        if checkpoint is not None:
            path = Path(checkpoint) / TRAINER_STATE_NAME
            named = json.loads(path.read_text(encoding="utf-8")).get("best_model_checkpoint")
            if named:  # by its name alone: the run's folder may have been moved, and a state may name any folder
                best = Path(checkpoint).parent / Path(named).name
                found = problem(best) if best in checkpoints(best.parent) else "there is no such checkpoint"
                if found is None:
                    self.state.best_model_checkpoint = str(best)
                else:
                    print(f"{best}, the best checkpoint so far, is lost ({found}): the best is chosen anew from here")
                    self.state.best_model_checkpoint = self.state.best_metric = self.state.best_global_step = None
        return begun

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: Any) -> Any:
        # With a limit of 1 the Trainer would now delete the last checkpoint for the best one: what a signal saved, or
        # the end of the run before its model is written.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(trial, num_train_samples, start_time)
        finally:
            self.args.save_total_limit = limit

    @property
    def _plain(self) -> bool:
        """Whether this process holds all of the model and its optimizer."""
        return not (self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._plain:
            super()._save_optimizer_and_scheduler(output_dir)
            super()._save_scaler(output_dir)
        elif self.args.should_save:
            scaler, optimizer, schedule = self.accelerator.scaler, self.optimizer, self.lr_scheduler
            state = {
                "optimizer": optimizer.state_dict() if optimizer is not None else None,
                "schedule": schedule.state_dict() if schedule is not None else None,
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            save_state(Path(output_dir) / STATE, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._plain:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        path = Path(checkpoint) / STATE
        if not path.is_file():
            raise InputError(f"checkpoint '{checkpoint}' has no {STATE} (save_only_model?): a run can't go on from it")
        state = load_state(path)
        assert self.optimizer is not None and self.lr_scheduler is not None  # they are made before they are loaded
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _save_scaler(self, output_dir: str) -> None:
        """Saved with the optimizer."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        if not self._plain:
            super()._load_scaler(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to save: every step has a seed of its own."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load: every step has a seed of its own."""
