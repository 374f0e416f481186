"""SIGTERM and Ctrl-C: the first one saves and ends the run, the second one ends it at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from qabert.errors import Stopped


class StopSignals:
    """What this process has been asked by a signal.

    Args:
        requested: The signal that asked to stop, or None.
        patient: Whether a first signal may wait for the end of a step; otherwise it ends the process at once.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.patient = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a first signal wait: whoever runs in this context looks at `requested` after every step."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        """The handler.

        Raises:
            Stopped: Nobody is going to look, or this is the second signal.
        """
        name = signal.Signals(signum).name
        if not self.patient or self.requested is not None:
            raise Stopped(signum, f"stopped by {name}; what was saved is whole, --resume auto goes on from it")
        self.requested = signum
        print(f"{name}: saving and stopping after this step (once more: at once)", file=sys.stderr, flush=True)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Receive SIGTERM and SIGINT here; outside of the main thread, which alone may, they keep what they do."""
    stop = StopSignals()
    both = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    # A shell has a job in the background ignore Ctrl-C, which is meant for another one.
    watched = [signum for signum in both if signal.getsignal(signum) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, stop.receive) for signum in watched}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
