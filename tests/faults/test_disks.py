"""Disks that are full, turn read-only or change what was written, at random moments of real runs."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_checks import under_way
from fault_runs import Run
from fault_table import Try, check
from kills import any_moment, draw

from qabert.checkpoints import newest_whole, problem

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]
#: Room of a disk that is not full yet, far more than a run takes.
SIZE = 64 << 20


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own at `place`, in memory; skips the test where mounting is not permitted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system; the test with file size limits stands in")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, how: str) -> None:
    """Make a mounted file system `ro` or `rw`; the first is refused as long as a file is being written."""
    end = time.monotonic() + 20
    while (done := subprocess.run(["mount", "-o", f"remount,{how}", str(place)], capture_output=True)).returncode != 0:
        assert time.monotonic() < end, done.stderr


def one_try(seed: int, fault: str, processes: int) -> tuple[random.Random, Try]:
    """The chance of a try and the try."""
    chance = random.Random(f"{fault} {processes} {seed}")
    return chance, Try(fault, draw(chance, processes, chance.random() < 0.3), seed)


def test_a_full_disk(harness, fault_seeds):
    tries = []
    for seed in fault_seeds:
        chance, done = one_try(seed, "a full disk", 1)
        whole, _ = harness.reference(done.setting)
        size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        with small_disk(harness.place()) as disk:
            filler, room = disk / "filler", chance.randrange(size // 2)

            def fill(run: Run, filler=filler, room=room) -> None:
                filler.touch()
                # The run goes on writing meanwhile, so what is free now may not be in a moment.
                while (free := shutil.disk_usage(filler.parent).free) > room:
                    with contextlib.suppress(OSError), filler.open("r+b") as file:
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free - room)

            tries.append(harness.failed(done, disk / "run", chance, fill, filler.unlink))
    check(tries)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_limit_of_file_sizes(processes, harness, fault_seeds):
    """Stands in for a full disk where none can be mounted: no file may grow over a random size from a moment on."""
    tries = []
    for seed in fault_seeds:
        chance, done = one_try(seed, "a limit of file sizes", processes)
        size = chance.randrange(20_000, 120_000)

        def limit(run: Run, most=size) -> None:
            for process in run.processes:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))

        tries.append(harness.failed(done, harness.place(), chance, limit, lambda: None))
    check(tries)


def test_a_disk_that_turns_read_only(harness, fault_seeds):
    tries = []
    for seed in fault_seeds:
        chance, done = one_try(seed, "a disk that turns read-only", 1)
        with small_disk(harness.place()) as disk:
            tries.append(
                harness.failed(
                    done, disk / "run", chance, lambda run, disk=disk: remount(disk, "ro"), lambda: remount(disk, "rw")
                )
            )
    check(tries)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root but a file system")
def test_a_folder_that_turns_read_only(harness, fault_seeds):
    tries = []
    for seed in fault_seeds:
        chance, done = one_try(seed, "a folder that turns read-only", 1)
        output = harness.place()

        def change(mode: int, output=output) -> None:
            for folder in [output, *(path for path in output.rglob("*") if path.is_dir())] if output.exists() else []:
                folder.chmod(mode)

        tries.append(harness.failed(done, output, chance, lambda run: change(0o500), lambda: change(0o700)))
    check(tries)


def damage(folder: Path, chance: random.Random) -> str:
    """Flip bytes of a random file, cut it, or delete it."""
    path = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    size = path.stat().st_size
    how = chance.choice(["flipped", "cut", "deleted"])
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        os.truncate(path, chance.randrange(size))
    else:
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 10])):
            data[chance.randrange(size)] ^= chance.randrange(1, 256)
        path.write_bytes(data)
    return f"{path.name} {how}"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_broken_checkpoint(processes, harness, fault_seeds):
    tries = []
    for seed in fault_seeds:
        chance, done = one_try(seed, "a broken checkpoint", processes)
        _, events = harness.reference(done.setting)
        for _ in range(50):  # killed anywhere, and once there is a checkpoint
            output = harness.place()
            run = harness.broken_off(done.setting, output, *any_moment(events, chance), lambda run: run.kill())
            run.finish()
            newest = newest_whole(output) or newest_whole(output / "triplet-checkpoints")
            if newest is not None and not (output / "metrics.json").exists():
                break
            shutil.rmtree(output, ignore_errors=True)
        assert newest is not None
        what = damage(newest, chance)
        done.under_way = f"{under_way(run.events)}, {newest.name}: {what}"
        broken = problem(newest) is not None
        harness.resume(done, run, output)
        finished_stage = newest.parent != output and (output / "triplet").is_dir()
        if broken and not finished_stage and f"skipping {newest}" not in harness.said:
            done.different.append(f"not told that {newest} is broken: {harness.said[-2000:]}")
        tries.append(done)
    check(tries)
