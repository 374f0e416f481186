"""SIGKILL and SIGTERM at random moments; the same command goes on and ends with the uninterrupted run's bits."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_checks import KINDS, differences, lost, saves, windows
from fault_runs import ROOT
from fault_table import Try, check
from kills import SETTINGS, draw

from qabert.checkpoints import checkpoints


@pytest.mark.slow
def test_a_sample_of_the_kills(harness):
    """A few of the kills below, so that every run of the tests sees some."""
    sample = [("during a save", 1, True), (KINDS[-1], 1, True), ("during a save", 2, False)]
    tries = []
    for kind, processes, triplets in sample:
        chance = random.Random(f"{kind} {processes}")
        setting = dataclasses.replace(SETTINGS[0], processes=processes, triplets=triplets)
        tries.append(harness.killed(kind, setting, chance, 0))
    check(tries)


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(kind, processes, harness, fault_seeds):
    tries = []
    for seed in fault_seeds:
        chance = random.Random(f"{kind} {processes} {seed}")
        setting = draw(chance, processes, kind == KINDS[-1])
        while not windows(kind, harness.reference(setting)[1]):  # some orders change the task at every step
            setting = draw(chance, processes, kind == KINDS[-1])
        tries.append(harness.killed(kind, setting, chance, seed))
    check(tries)


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_terminated_run_goes_on_to_the_same_bits(processes, harness, fault_seeds):
    tries = []
    for seed in fault_seeds:
        chance = random.Random(f"SIGTERM {processes} {seed}")
        tries.append(harness.terminated(draw(chance, processes, chance.random() < 0.3), chance, seed))
    check(tries)


def descendants(pid: int) -> list[int]:
    """A process's children and theirs, by Linux's own account."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


#: How a launched run is killed, and what launches it.
LAUNCHES = {
    "torchrun, all of it": ("torch.distributed.run --standalone --nproc-per-node 2", 2),
    "torchrun, a worker": ("torch.distributed.run --standalone --nproc-per-node 2", 2),
    "accelerate launch": ("accelerate.commands.launch --config_file accelerate_config.yaml", 1),
}


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
@pytest.mark.parametrize("how", LAUNCHES)
def test_a_launched_run_goes_on_to_the_same_bits(how, harness, fault_seeds):
    launcher, processes = LAUNCHES[how]
    chance = random.Random(f"{how} {fault_seeds[0]}")
    setting = dataclasses.replace(draw(chance, processes, False), saves="steps", order="sequential")
    whole, events = harness.reference(setting)
    output, log = harness.place(), harness.folder / f"{how}.log"
    words = [*harness.words, *setting.words(), "--output_dir", str(output)]
    command = [sys.executable, "-m", *launcher.split(), "scripts/train.py", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def launch() -> subprocess.Popen:
        with log.open("a") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=environment)

    done, process = Try(f"SIGKILL of {how}", setting, fault_seeds[0]), launch()
    try:
        while not checkpoints(output):
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.7 * (events[-1].time - saves(events)[0].time)))
        workers = [pid for pid in descendants(process.pid) if b"scripts/train.py" in cmdline(pid)]
        for pid in [max(workers)] if how == "torchrun, a worker" else [process.pid, *workers]:
            os.kill(pid, signal.SIGKILL)
        assert process.wait(60) != 0
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert not (output / "metrics.json").exists(), "it was too late"
    done.under_way = f"{checkpoints(output)[-1].name} saved"
    done.lost = lost(output, [])
    start, before = time.monotonic(), len(log.read_text())
    process = launch()
    while " · step " not in log.read_text()[before:] and process.poll() is None:
        time.sleep(0.05)
    done.recovery = time.monotonic() - start  # to the first line about a step, with all that is imported before
    assert process.wait(300) == 0, log.read_text()[before:][-3000:]
    done.different = differences(whole, output)
    harness.tries.append(done)
    check([done])


def cmdline(pid: int) -> bytes:
    """A process's command, its words ended by zeros."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
