"""Pushing while a run goes on, without holding it up or putting it at risk."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qabert.checkpoints import CHECKSUMS, write_checksums
from qabert.errors import InputError, RunError
from qabert.hub.push import files_to_push, upload
from qabert.model_files import FILES

#: Where the model's files of a checkpoint wait until they are on the hub; a run clears what an earlier one left of it.
_WAITING = ".push.part"


class PushCheckpoints(TrainerCallback):
    """After each checkpoint, push its model in the background; one at a time, and a failure is only a warning.

    The checkpoint is whole on the disk before the hub is asked.  What is uploaded are hard links to its files, which
    stay what they are when the checkpoint itself is deleted for a newer one.  While a push is under way the next
    checkpoints aren't pushed; nor are optimizer states, ever.

    Args:
        repo_id: `owner/name`.
        private: See `push_to_hub`.
    """

    def __init__(self, repo_id: str, private: bool | None = None) -> None:
        self.repo_id, self.private = repo_id, private
        self.thread: threading.Thread | None = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a checkpoint."""
        if not state.is_world_process_zero or (self.thread is not None and self.thread.is_alive()):
            return
        output = Path(str(args.output_dir))
        waiting = output / _WAITING
        try:
            _link_model(output / f"checkpoint-{state.global_step}", waiting)
        except OSError as error:
            self._warn(state.global_step, error)
            return
        # A daemon: a run that is stopped doesn't wait for the network, and a push that is cut off leaves no trace.
        self.thread = threading.Thread(target=self._push, args=(waiting, state.global_step), daemon=True)
        self.thread.start()

    def finish(self) -> None:
        """Wait for the push that is under way."""
        if self.thread is not None:
            self.thread.join()

    def _push(self, waiting: Path, step: int) -> None:
        try:
            write_checksums(waiting)
            message = f"Training in progress, step {step}"
            upload(files_to_push(waiting), self.repo_id, self.private, message, waits=())
        except Exception as error:  # whatever it is, it must not end the run
            self._warn(step, error)
        finally:
            shutil.rmtree(waiting, ignore_errors=True)

    def _warn(self, step: int, error: Exception) -> None:
        text = str(error) if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {error}"
        print(f"warning: step {step}: {text}; the next checkpoint, or the end, tries again", flush=True)


def _link_model(checkpoint: Path, waiting: Path) -> None:
    """Fill the folder `waiting` with the model's files of a checkpoint."""
    shutil.rmtree(waiting, ignore_errors=True)
    waiting.mkdir()
    for path in {path for pattern in FILES for path in checkpoint.glob(pattern) if path.name != CHECKSUMS}:
        place = waiting / path.relative_to(checkpoint)
        place.parent.mkdir(exist_ok=True)
        try:
            os.link(path, place)
        except OSError:  # a file system without them
            shutil.copy2(path, place)
