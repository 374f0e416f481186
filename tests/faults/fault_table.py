"""What came of every fault, and a table of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

import pytest
from fault_runs import Setting


@dataclass
class Try:
    """One fault and what came of it."""

    fault: str
    setting: Setting
    seed: int
    under_way: str = ""
    redone: int | None = None
    recovery: float | None = None
    lost: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = [*self.lost, *self.different]
        return (
            f"{self.fault} ({self.under_way}), --fault-seed {self.seed}, {self.setting}: {'; '.join(found) or 'fine'}"
        )


def check(tries: list[Try]) -> None:
    """Fail, naming each of those that lost or changed something, so that it can be repeated alone."""
    found = [str(one) for one in tries if one.lost or one.different]
    if found:
        pytest.fail(f"{len(found)} of {len(tries)}:\n" + "\n".join(found), pytrace=False)


def table(tries: list[Try]) -> str:
    """A Markdown table with a line for each kind of fault and number of processes."""
    lines = [
        "| fault | processes | tries | steps redone (median, most) | lost nothing saved | resumed exactly | "
        "seconds until back where it broke off (median, most) |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault, processes in dict.fromkeys((one.fault, one.setting.processes) for one in tries):
        of_kind = [one for one in tries if (one.fault, one.setting.processes) == (fault, processes)]
        number = len(of_kind)
        redone = [one.redone for one in of_kind if one.redone is not None]
        seconds = [one.recovery for one in of_kind if one.recovery is not None]
        exact = sum(not one.different for one in of_kind)
        kept = sum(not one.lost for one in of_kind)
        again = f"{median(redone):g}, {max(redone)}" if redone else "-"
        times = f"{median(seconds):.1f}, {max(seconds):.1f}" if seconds else "-"
        lines.append(
            f"| {fault} | {processes} | {number} | {again} | {kept} of {number} | {exact} of {number} | {times} |"
        )
    return "\n".join(lines)
