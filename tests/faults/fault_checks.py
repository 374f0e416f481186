"""What kind of moment it was, what was lost, and in what two runs differ."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from fault_runs import Event

from qabert.checkpoints import checkpoints, problem

#: Where a run may be when it is killed.
KINDS = ("inside a task", "at a task's boundary", "during an evaluation", "during a save", "after the triplet stage")
#: Clocks and places: all that may differ between two runs of the same settings.
_FREE = ("runtime", "per_second", "seconds", "output_dir", "best_model_checkpoint", "train_loss", "total_flos")


def steps(events: list[Event]) -> list[Event]:
    """The steps that began."""
    return [event for event in events if event.name == "step"]


def saves(events: list[Event]) -> list[Event]:
    """The checkpoints that were saved, and the triplet stage."""
    return [event for event in events if event.name in ("save-", "stage-")]


def position(event: Event, whole: list[Event]) -> int:
    """Optimizer steps done at a moment, both stages together; `whole` are the moments of an uninterrupted run."""
    triplet = sum(other.stage == "triplet" for other in steps(whole))
    if event.name.startswith("stage"):
        return triplet
    return event.step + (triplet if event.stage == "tasks" else 0)


def windows(kind: str, events: list[Event]) -> list[tuple[Event, Event]]:
    """Neighbouring moments of an uninterrupted run between which it was in this kind of moment."""
    pairs = list(itertools.pairwise(events))
    tasks = [event for event in steps(events) if event.stage == "tasks"]
    changes = [pair for pair in itertools.pairwise(tasks) if pair[0].task != pair[1].task]
    at_changes = [event for pair in changes for event in pair]
    if kind == "inside a task":
        return [pair for pair in pairs if pair[0] in tasks and pair[0] not in at_changes]
    if kind == "at a task's boundary":  # the last step of one task and the first one of the next
        return [pair for pair in pairs if pair[0] in at_changes]
    if kind == "during an evaluation":
        return [pair for pair in pairs if pair[0].name == "evaluation+"]
    if kind == "during a save":
        return [pair for pair in pairs if pair[0].name in ("save+", "model+") and pair[0].stage == "tasks"]
    ends = [event for event in events if event.name in ("stage+", "stage-")] + tasks[:3]
    return [pair for pair in pairs if pair[0] in ends or (pair[0].name, pair[0].stage) == ("save+", "triplet")]


def under_way(events: list[Event]) -> str:
    """What the last thing told of a run says that it was doing."""
    for event in reversed(events):
        if not event.name.endswith("-"):
            stage = " of the triplet stage" if event.stage == "triplet" and event.name != "stage+" else ""
            after = f" after {events[-1].name[:-1]}" if events[-1].name.endswith("-") else ""
            return f"{event.name.rstrip('+')} {event.step}{stage}{after}"
    return "nothing"


def lost(output: Path, events: list[Event]) -> list[str]:
    """What a run had saved when it broke off and is not whole now."""
    found = [
        f"{folder.name}: {what}"
        for place in (output, output / "triplet-checkpoints")
        for folder in checkpoints(place)
        if (what := problem(folder)) is not None
    ]
    if any(event.name == "stage-" for event in events) and (what := problem(output / "triplet")) is not None:
        found.append(f"triplet: {what}")
    ended = [event for event in saves(events) if event.name == "save-"]
    if ended:
        last = ended[-1]
        place = output / ("triplet-checkpoints" if last.stage == "triplet" else "")
        finished = (output / "triplet").is_dir() and last.stage == "triplet"
        # A later one may have taken its place, if the end of that save could not be told any more.
        newest = max((int(folder.name.split("-")[1]) for folder in checkpoints(place)), default=0)
        if not finished and newest < last.step:
            found.append(f"checkpoint-{last.step} was saved and is gone")
    return found


def differences(whole: Path, other: Path, same_checkpoints: bool = True) -> list[str]:
    """In what two runs' folders differ, but for clocks and names; the newest checkpoint has to be there in any case."""
    files = [{path.relative_to(folder).as_posix() for path in folder.rglob("*")} for folder in (whole, other)]
    newest = checkpoints(whole)[-1].name if checkpoints(whole) else ""
    alone = [
        name
        for name in sorted(files[0] ^ files[1])
        if same_checkpoints or not name.startswith("checkpoint-") or name.split("/")[0] == newest
    ]
    found = [f"{name} is in one alone" for name in alone]
    for name in sorted(files[0] & files[1]):
        one, two = whole / name, other / name
        if one.is_dir() or one.name == "checksums.json":
            continue
        if one.suffix == ".json" or one.suffix == ".yaml":
            if _timeless(one) != _timeless(two):
                found.append(f"{name} differs")
        elif one.name == "README.md":  # seconds, and the folder's name
            continue
        elif one.read_bytes() != two.read_bytes():
            found.append(f"{name} differs")
    return found + [f"{name}: {what}" for name in sorted(files[1]) if (what := _broken(other / name))]


def _broken(folder: Path) -> str | None:
    return problem(folder) if (folder / "checksums.json").is_file() else None


def _timeless(path: Path) -> Any:
    import yaml

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if not str(key).endswith(_FREE)}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    text = path.read_text(encoding="utf-8")
    return strip(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))
