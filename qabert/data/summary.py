"""What the rows look like, before anything is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from qabert.data.sampling import strata
from qabert.data.sources import TaskData
from qabert.tables import table
from qabert.tasks import Task


def label_shares(task: Task, labels: Any) -> dict[str, float]:
    """Share of each label, by name; of a regression's labels, by the nearest fifth of its range (paper, table 3)."""
    values = np.asarray(labels, dtype=np.float64)
    if task.range is None:
        return {name: float(np.mean(values == number)) for number, name in enumerate(task.labels)}
    low, high = task.range
    steps = strata(values, task.range)
    return {f"{low + step * (high - low) / 5:g}": float(np.mean(steps == step)) for step in range(6)}


def summarise(
    tasks: Mapping[str, Task], rows: Mapping[str, TaskData], features: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Numbers by task and split: rows read and used, rows dropped by reason, label shares, lengths, truncated rows."""
    result: dict[str, Any] = {}
    for name, task in tasks.items():
        for split, used in rows[name].splits.items():
            lengths = np.asarray(features[name][split]["length"])
            reasons = Counter(f"{item.column}: {item.reason}" for item in rows[name].dropped[split])
            result.setdefault(name, {})[split] = {
                "read": rows[name].read[split],
                "used": len(used),
                "dropped": dict(reasons),
                "dropped_rows": [f"{d.file}, line {d.line}" for d in rows[name].dropped[split]][:100],
                "label_shares": label_shares(task, used["label"]),
                "mean_tokens": round(float(lengths.mean()), 1),
                "max_tokens": int(lengths.max()),
                "truncated": int(np.sum(features[name][split]["truncated"])),
            }
    return result


def summary_text(summary: Mapping[str, Any]) -> str:
    """The summary as a table, with the dropped rows below it."""
    lines, notes = [], []
    for name, splits in summary.items():
        for split, facts in splits.items():
            shares = " ".join(f"{label} {share:.1%}" for label, share in facts["label_shares"].items())
            tokens = f"{facts['mean_tokens']:.0f} / {facts['max_tokens']}"
            lines.append([name, split, f"{facts['used']:,}", tokens, f"{facts['truncated']:,}", shares])
            for reason, count in facts["dropped"].items():
                notes.append(f"dropped from {name} {split}: {count} row(s), {reason}")
            if facts["dropped"]:
                notes.append("  " + "; ".join(facts["dropped_rows"][:10]))
    heads = ["task", "split", "rows", "tokens mean / max", "truncated", "label shares"]
    return "\n".join([table(heads, lines), *notes])
