"""Runs that are forked from a server which holds the imports, and what they tell while they run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_child import run_child

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Dropout everywhere, losses by task, weighted draws: all that could differ after a resume.
WORDS = """
    --format joint --max_length 32 --head_blocks 1 --use_cpu true --disable_tqdm true --report_to none
    --num_train_epochs 2 --learning_rate 5e-3 --logging_steps 3 --head_dropout 0.3 --dropout 0.2
    --examples_per_epoch sst=24,sts=24,quora=24 --eval_examples sst=8,sts=8,quora=8 --resume auto
"""
SAVES = {
    "steps": "--save_strategy steps --save_steps 4 --eval_strategy steps --eval_steps 4",
    "epoch": "",
    "mixed": "--save_strategy steps --save_steps 3 --eval_strategy epoch --load_best_model_at_end false",
}
TRIPLETS = "--triplet_loss equation1 --triplet_examples sst=32,sts=32,quora=16 --triplet_batch_size"
#: The longest that a run may be silent or alive, on a machine that has other things to do.
SECONDS = 120.0


@dataclass(frozen=True)
class Setting:
    """What a run is told, as far as the tries differ in it."""

    order: str
    saves: str
    accumulation: int
    keep: int
    seed: int
    triplets: bool = False
    processes: int = 1

    @classmethod
    def draw(cls, chance: random.Random) -> Setting:
        """A random one."""
        order = chance.choice(["sequential", "interleaved", "annealed"])
        return cls(order, chance.choice(list(SAVES)), *(chance.choice([1, 2]) for _ in range(3)))

    def words(self) -> list[str]:
        """Its flags."""
        batch = 8 // self.processes // self.accumulation
        words = f"{WORDS} {SAVES[self.saves]} --order {self.order} --save_total_limit {self.keep} --seed {self.seed}"
        words += f" --gradient_accumulation_steps {self.accumulation} --per_device_train_batch_size {batch}"
        if self.triplets:
            words += f" {TRIPLETS} {batch}"
        if self.processes > 1:
            words += " --ddp_backend gloo"
        return words.split()


@dataclass(frozen=True)
class Event:
    """A moment of a run: when, what, and in which stage, after how many steps, on which task."""

    time: float
    name: str
    stage: str
    step: int
    task: str | None

    def same(self, other: Event) -> bool:
        """Whether it is this moment of another run."""
        return (self.name, self.stage, self.step) == (other.name, other.stage, other.step)


class Run:
    """Processes of one command, forked from the server.  `events` are those of the first."""

    def __init__(self, context: Any, words: list[str], log: Path, processes: int = 1) -> None:
        self.log, self.begun = log, time.monotonic()
        self.events: list[Event] = []
        self.pipe, theirs = context.Pipe(duplex=False)
        base = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        port = str(free_port())
        self.processes = []
        for rank in range(processes):
            environment = dict(base)
            if processes > 1:  # as torchrun sets them
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                environment |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            given = (words, environment, f"{log}.{rank}", theirs if rank == 0 else None)
            process = context.Process(target=run_child, args=given)
            process.start()
            self.processes.append(process)
        theirs.close()

    def moments(self, seconds: float = SECONDS) -> Iterator[Event]:
        """Each moment as it is told, to the run's end."""
        end = time.monotonic() + seconds
        while True:
            if not self.pipe.poll(max(end - time.monotonic(), 0)):
                self.kill()
                raise TimeoutError(f"a run hung for {seconds:.0f} s: {self.output()[-3000:]}")
            try:
                event = Event(*json.loads(self.pipe.recv_bytes()))
            except EOFError:
                return
            self.events.append(event)
            yield event

    def finish(self, seconds: float = SECONDS) -> list[int]:
        """Wait for the end; the exit codes, with 128 + signum for a process that a signal ended."""
        for _ in self.moments(seconds):
            pass
        for process in self.processes:
            process.join(seconds)
            if process.exitcode is None:
                self.kill()
                raise TimeoutError(f"a process outlived the others by {seconds:.0f} s: {self.output()[-3000:]}")
        return self.codes()

    def codes(self) -> list[int]:
        """Exit codes of processes that have ended."""
        codes = [process.exitcode for process in self.processes]
        return [code if code >= 0 else 128 - code for code in codes]

    def send(self, signum: int, ranks: tuple[int, ...] | None = None) -> None:
        """A signal to all, or to some."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            if self.processes[rank].is_alive():
                os.kill(self.processes[rank].pid, signum)

    def kill(self, ranks: tuple[int, ...] | None = None) -> None:
        """SIGKILL; where some live on, what a launcher does with them: SIGTERM, after a while SIGKILL."""
        self.send(signal.SIGKILL, ranks)
        if ranks is not None:
            self.send(signal.SIGTERM)
            end = time.monotonic() + 5
            while time.monotonic() < end and any(process.is_alive() for process in self.processes):
                time.sleep(0.01)
            self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()

    def output(self, rank: int | None = None) -> str:
        """What one of its processes wrote, or all of them."""
        logs = [Path(f"{self.log}.{number}") for number in range(len(self.processes)) if rank in (None, number)]
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in logs if path.exists())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def server() -> Any:
    """The fork server: it imports everything once, and computes nothing, so that it has one thread."""
    paths = [str(HERE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # the server's
    for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ[name] = "1"
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_preload"])
    return context
