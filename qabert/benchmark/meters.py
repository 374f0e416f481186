"""Clocks and counters, the same for every contender."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch


class Stopwatch:
    """Wall-clock and processor seconds between `start` and `stop`; a GPU finishes its work before a clock is read."""

    def start(self) -> None:
        """Begin."""
        synchronize()
        self._began = (time.perf_counter(), *_processor_seconds())

    def stop(self) -> dict[str, float]:
        """`seconds`, `user_seconds` and `system_seconds` since `start`."""
        synchronize()
        ended = (time.perf_counter(), *_processor_seconds())
        names = ("seconds", "user_seconds", "system_seconds")
        return {name: end - start for name, start, end in zip(names, self._began, ended, strict=True)}


class Meter:
    """Counts what encoders see: rows, tokens, and padding.

    The counters hang on the encoder itself, so nobody's loader, sampler or collator has to be trusted.
    """

    def __init__(self, *encoders: torch.nn.Module) -> None:
        self.reset()
        for encoder in encoders:
            encoder.register_forward_pre_hook(self._see, with_kwargs=True)

    def reset(self) -> None:
        """Begin anew."""
        self.rows = self.calls = self._size = 0
        self._useful: Any = 0

    def _see(self, encoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | kwargs
        ids, mask = given["input_ids"], given.get("attention_mask")
        self.rows += ids.shape[0]
        self.calls += 1
        self._size += ids.numel()
        self._useful = self._useful + (ids.numel() if mask is None else mask.sum())  # not read here: a GPU would wait

    def rates(self, seconds: float) -> dict[str, Any]:
        """`rows`, `useful_tokens`, `padding` (its share of all tokens) and, by `seconds`, the two rates."""
        useful = int(self._useful)
        return {
            "rows": self.rows,
            "useful_tokens": useful,
            "padding": 1 - useful / max(self._size, 1),
            "examples_per_second": self.rows / seconds,
            "useful_tokens_per_second": useful / seconds,
        }


def synchronize() -> None:
    """Wait until the GPU, if there is one, has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> str:
    """Where everything runs: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast(bf16: bool) -> AbstractContextManager[Any]:
    """bfloat16 where it is asked for."""
    return torch.autocast(device(), torch.bfloat16) if bf16 else nullcontext()


def peak_memory() -> float:
    """The most memory that this process held, in MiB.

    `getrusage` would do, but on Linux its number begins with that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 / (1024 if sys.platform == "darwin" else 1)  # bytes there, KiB elsewhere


def _processor_seconds() -> tuple[float, float]:
    used = os.times()
    return used.user, used.system
