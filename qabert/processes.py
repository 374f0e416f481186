"""Several processes that answer one file together: `torchrun --nproc-per-node N scripts/predict.py …`."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from qabert.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process's place among those that a launcher started.

    Args:
        rank: Its number, from 0.
        count: How many there are.
        local_rank: Its number on this machine, for the choice of a GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this one writes files and prints."""
        return self.rank == 0

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """Every process's result, in the order of their ranks, in every process.

        Raises:
            RunError: Another process failed, with what it said, or ended.
        """
        if self.count == 1:
            return [compute()]
        import torch.distributed

        result: T | None = None
        failure: Exception | None = None
        try:
            result = compute()
        except Exception as error:  # told to the others first: they'd wait for this one
            failure = error
        found: list[tuple[T, str | None]] = [None] * self.count  # type: ignore[list-item]
        said = None if failure is None else str(failure) or type(failure).__name__
        try:
            torch.distributed.all_gather_object(found, (result, said))
        except RuntimeError:
            if failure is None:
                raise RunError("another of the processes has ended; its own message says why") from None
        if failure is not None:
            raise failure
        for rank, (_, problem) in enumerate(found):
            if problem is not None:
                raise RunError(f"process {rank} failed: {problem}")
        return [value for value, _ in found]


ALONE = Processes()


def launched_processes() -> int:
    """How many processes the launcher started, as it says in the environment; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched() -> Processes:
    """The processes that a launcher such as torchrun started, connected until this one ends; or this one alone.

    Raises:
        RunError: They can't be connected.
    """
    count = launched_processes()
    if count == 1:
        return ALONE
    import torch.distributed

    if not torch.distributed.is_initialized():
        try:
            torch.distributed.init_process_group("gloo")  # also beside GPUs: what is exchanged are answers
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the {count} processes can't be connected: {str(error).splitlines()[0]}") from None
        atexit.register(torch.distributed.destroy_process_group)
        # The launcher ends the others when one has failed: they remove what they have half-written.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return Processes(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))
