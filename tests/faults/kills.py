"""Real processes, real faults: runs are killed at chosen moments, gone on with, compared with whole ones.

A killed run tells its moments through a pipe; the kill comes from outside, a random time after a moment, so that it
falls anywhere: between two system calls of a save as well as in an evaluation.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fault_checks import differences, lost, position, saves, steps, under_way, windows
from fault_runs import Event, Run, Setting, server
from fault_table import Try

#: What the tries choose from: each has an uninterrupted twin, which is run once.
SETTINGS = [Setting.draw(random.Random(number)) for number in range(12)]


def draw(chance: random.Random, processes: int, triplets: bool) -> Setting:
    """A random one of them."""
    return replace(chance.choice(SETTINGS), processes=processes, triplets=triplets)


class Harness:
    """Runs, their uninterrupted twins, and what the tries came to."""

    def __init__(self, folder: Path, data: Path, encoder: str) -> None:
        self.folder, self.words = folder, ["--data", str(data), "--encoder", encoder]
        self.number = 0
        self.whole: dict[Setting, tuple[Path, list[Event]]] = {}
        self.tries: list[Try] = []
        self.said = ""  # by the last run that went on
        self.context = server()

    def start(self, setting: Setting, output: Path) -> Run:
        """Start a run."""
        self.number += 1
        words = [*self.words, *setting.words(), "--output_dir", str(output)]
        return Run(self.context, words, self.folder / f"log-{self.number}", setting.processes)

    def place(self) -> Path:
        """A folder that isn't there yet."""
        self.number += 1
        return self.folder / f"run-{self.number}"

    def reference(self, setting: Setting) -> tuple[Path, list[Event]]:
        """The uninterrupted run: its folder and its moments."""
        if setting not in self.whole:
            run = self.start(setting, place := self.place())
            codes = run.finish()
            assert codes == [0] * setting.processes, run.output()[-4000:]
            self.whole[setting] = (place, run.events)
        return self.whole[setting]

    def broken_off(
        self, setting: Setting, output: Path, first: Event, wait: float, fault: Callable[[Run], None]
    ) -> Run:
        """Start a run, and so many seconds after a moment of it let the fault happen."""
        run = self.start(setting, output)
        for event in run.moments():
            if event.same(first):
                time.sleep(max(event.time + wait - time.monotonic(), 0))
                fault(run)
                break
        return run

    def killed(self, kind: str, setting: Setting, chance: random.Random, seed: int) -> Try:
        """Kill a run at a random moment of this kind, go on, compare."""
        _, events = self.reference(setting)
        done = Try(kind, setting, seed)
        ranks = chance.choice([None, None, (0,), (1,)]) if setting.processes > 1 else None
        first, last = chance.choice(windows(kind, events))
        share = chance.random()
        for attempt in range(8):  # it may have been faster than its twin: then an earlier moment
            output = self.place()
            wait = (last.time - first.time) * share / 2**attempt
            run = self.broken_off(setting, output, first, wait, lambda run: run.kill(ranks))
            codes = run.finish()
            if max(codes) > 0 and run.events[-1].same(first):
                done.under_way = under_way(run.events) + (f", process {ranks[0]} alone" if ranks else "")
                self.resume(done, run, output)
                return done
            shutil.rmtree(output, ignore_errors=True)
        raise AssertionError(f"no kill fell {kind}: {done}")

    def terminated(self, setting: Setting, chance: random.Random, seed: int) -> Try:
        """Send SIGTERM at a random moment, as a cluster does to all processes; go on, compare."""
        _, events = self.reference(setting)
        done = Try("SIGTERM", setting, seed)
        first, wait = any_moment(events, chance)
        for attempt in range(8):
            output = self.place()
            run = self.broken_off(setting, output, first, wait / 2**attempt, lambda run: run.send(signal.SIGTERM))
            codes = run.finish()
            if max(codes) > 0:
                done.under_way = under_way(run.events)
                if codes != [143] * setting.processes or "Traceback" in run.output():
                    done.different.append(f"exit codes {codes}: {run.output()[-3000:]}")
                self.resume(done, run, output)
                return done
            shutil.rmtree(output)
        raise AssertionError(f"no signal came before the end: {done}")

    def failed(
        self, done: Try, output: Path, chance: random.Random, fault: Callable[[Run], None], mend: Callable[[], None]
    ) -> Try:
        """Let something go wrong with the disk at a random moment; mend it, go on, compare.

        The run ends by itself, with a word about it and no traceback, or isn't hindered.
        """
        _, events = self.reference(done.setting)
        first, wait = any_moment(events, chance)
        moment: list[int] = []

        def noted(run: Run) -> None:
            moment.append(len(run.events))
            fault(run)

        run = self.broken_off(done.setting, output, first, wait, noted)
        codes, told = run.finish(), run.output()
        done.under_way = f"{under_way(run.events[: moment[0]])}, ended {under_way(run.events)}, exit codes {codes}"
        stopped = max(codes) > 0
        if max(codes) > 2 or "Traceback" in told or (stopped and not re.search("can't be written|make room", told)):
            done.different.append(told[-3000:])
        done.lost += lost(output, run.events)
        mend()
        self.resume(done, run, output)
        return done

    def resume(self, done: Try, broken: Run, output: Path) -> None:
        """Go on with a run that broke off, and note what was lost and what differs at the end."""
        whole, events = self.reference(done.setting)
        if not done.fault.startswith("a broken"):
            done.lost += [what for what in lost(output, broken.events) if what not in done.lost]
        run = self.start(done.setting, output)
        codes = run.finish()
        self.said = run.output()
        if codes != [0] * done.setting.processes:
            done.different.append(f"resumed: exit codes {codes}: {run.output()[-2000:]}")
            self.tries.append(done)
            return
        reached = max((position(event, events) for event in broken.events), default=0)
        done.redone = 0
        if again := steps(run.events):
            start = position(again[0], events)
            done.redone = reached - start
            saved = max((position(event, events) for event in saves(broken.events)), default=0)
            if start < saved and not done.fault.startswith("a broken"):
                done.lost.append(f"{saved} steps were saved, the run went on from {start}")
        # All that the broken run had done is done again, and something new begins.
        when = [event.time for event in run.events if event.stage and position(event, events) >= reached]
        done.recovery = when[0] - run.begun if when else None
        # One that a signal asked for is a checkpoint more, so the limit of their number may leave others.
        done.different += differences(whole, output, same_checkpoints=done.fault != "SIGTERM")
        self.tries.append(done)
        if not (done.lost or done.different):
            shutil.rmtree(output)


def any_moment(events: list[Event], chance: random.Random) -> tuple[Event, float]:
    """A random time of an uninterrupted run, as seconds after one of its moments."""
    # Mostly while it trains: a third of so short a run is its start.
    begun = events[0] if chance.random() < 0.15 else steps(events)[0]
    at = chance.uniform(begun.time, events[-1].time)
    before = [event for event in events if event.time <= at][-1]
    return before, at - before.time
