"""From the rounds' results to a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from qabert.benchmark.contenders import CONTENDERS, PARTS
from qabert.evaluation.figures.style import HATCHES, new_figure, note, series, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

START = {"train": "seconds_to_first_step", "evaluate": None, "predict": "seconds_to_first_answer"}
TITLES = {"train": "Training", "evaluate": "Evaluation", "predict": "Prediction"}
#: Of a process, not of a part.
MEMORY = ("peak_memory", "gpu_peak_memory")


def summarise(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Numbers by part and contender.

    Args:
        rounds: For each round, by contender, what it measured: `parts` (with `peak_memory` in each) or `errors`.

    Returns:
        By part, by contender: `{name: {"median", "low", "high"}}` of everything measured in more than no round, and
        `of_limit` (examples per second over the limit's of the same round); or `{"error": its last line}`.
    """
    summary: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        names = [
            name for name in CONTENDERS if any(part in {**_parts(one, name), **_errors(one, name)} for one in rounds)
        ]
        for name in names:
            seen = [(_parts(one, name).get(part), _parts(one, "limit").get(part)) for one in rounds]
            measured = [(own, limit) for own, limit in seen if own]
            if not measured:
                error = next(_errors(one, name)[part] for one in rounds if part in _errors(one, name))
                summary.setdefault(part, {})[name] = {"error": error}
                continue
            keys = [key for key, value in measured[0][0].items() if isinstance(value, int | float)]
            row = {key: _spread([own[key] for own, _ in measured]) for key in keys}
            ratios = [own["examples_per_second"] / limit["examples_per_second"] for own, limit in measured if limit]
            if ratios:
                row["of_limit"] = _spread(ratios)
            summary.setdefault(part, {})[name] = row
    return summary


def _parts(one: Mapping[str, Any], name: str) -> dict[str, Any]:
    return one.get(name, {}).get("parts", {})


def _errors(one: Mapping[str, Any], name: str) -> dict[str, str]:
    return one.get(name, {}).get("errors", {})


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}


def markdown(summary: Mapping[str, Mapping[str, Any]], heading: str, notes: Sequence[str]) -> str:
    """A table for each part, and what has to be known to read them."""
    lines = ["# Speed, side by side", "", heading, ""]
    for part, rows in summary.items():
        start = {"train": ["first step, s"], "predict": ["first answer, s"]}.get(part, [])
        gpu = ["GPU memory, MiB"] if any("gpu_peak_memory" in row for row in rows.values()) else []
        heads = ["examples/s", "of the limit", "useful tokens/s", "padding", *start, "CPU s, user + system"]
        heads += ["peak memory, MiB", *gpu]
        lines += [f"## {TITLES[part]}", "", f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
        for name, row in rows.items():
            if "error" in row:
                lines.append(f"| {name} | {row['error'].replace('|', '¦')} |{' |' * (len(heads) - 1)}")
                continue
            cells = [
                _cell(row["examples_per_second"], 1),
                _cell(row["of_limit"], 2) if "of_limit" in row else "–",
                f"{row['useful_tokens_per_second']['median']:,.0f}",
                f"{row['padding']['median']:.0%}",
                *([_cell(row[key], 1)] if (key := START[part]) else []),
                f"{row['user_seconds']['median']:.1f} + {row['system_seconds']['median']:.1f}",
                *(f"{row[key]['median']:,.0f}" for key in MEMORY if key in row),
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *(f"- {line}" for line in notes), ""])


def _cell(spread: Mapping[str, float], digits: int) -> str:
    middle, low, high = (f"{spread[key]:.{digits}f}" for key in ("median", "low", "high"))
    return middle if low == high else f"{middle} ({low}–{high})"


@styled
def speed_figure(summary: Mapping[str, Mapping[str, Any]], rounds: int) -> Figure:
    """Examples per second as a share of the limit's, a bar for each contender and a panel for each part."""
    figure = new_figure(
        f"Examples per second, as a share of the limit's (rounds: {rounds}; least and most)",
        0.9 + sum(0.35 + 0.24 * len(rows) for rows in summary.values()),
    )
    heights = [len(rows) + 1 for rows in summary.values()]
    panels = figure.subplots(len(summary), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (part, rows) in zip(panels, summary.items(), strict=True):
        axes.set_title(TITLES[part], loc="left")
        bars = {name: row["of_limit"] for name, row in rows.items() if "of_limit" in row}
        if not bars:
            note(axes, "nothing to show: the limit wasn't measured")
            axes.set_yticks([])
            continue
        for place, (name, of_limit) in enumerate(bars.items()):
            number = 1 if name == "qabert" else 0
            spread = [[of_limit["median"] - of_limit["low"]], [of_limit["high"] - of_limit["median"]]]
            axes.barh(
                place, of_limit["median"], xerr=spread, color=series(number)["color"], hatch=HATCHES[number],
                edgecolor="white", error_kw={"linewidth": 1},
            )  # fmt: skip
            axes.text(of_limit["high"] + 0.01, place, f"{of_limit['median']:.2f}", va="center")
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)  # room for the numbers
    panels[-1].set_xlabel("share of the limit")
    return figure
