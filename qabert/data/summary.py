"""What the rows look like, before anything is trained on them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from qabert.data.sampling import column, strata
from qabert.data.sources import TaskData
from qabert.tables import table
from qabert.tasks import Task

#: Train and dev labels are called different where chance doesn't explain it and it is large enough to matter.
DRIFT_P, DRIFT_DISTANCE = 0.001, 0.1


def label_shares(task: Task, labels: Any) -> dict[str, float]:
    """Share of each label, by name; of a regression's labels, by the nearest fifth of its range (paper, table 3)."""
    names, counts = _counts(task, labels)
    return dict(zip(names, (counts / counts.sum()).tolist(), strict=True))


def _counts(task: Task, labels: Any) -> tuple[list[str], np.ndarray]:
    """Names of the labels, or the fifths of a range, and how many rows have each."""
    names = list(task.labels)
    if task.range is not None:
        low, high = task.range
        names = [f"{low + step * (high - low) / 5:g}" for step in range(6)]
    counts = np.zeros(len(names), dtype=np.int64)
    found, rows = np.unique(strata(labels, task.range), return_counts=True)
    counts[found] = rows
    return names, counts


def label_drift(task: Task, train: Any, dev: Any) -> dict[str, Any] | None:
    """How the labels of train and dev rows are distributed differently.

    Classes: a chi-square test on the counts, and the total variation distance, half the sum of the shares' absolute
    differences.  Where a count of fewer than 5 is expected, the chi-square distribution doesn't hold, and the test is
    against rows that are dealt anew to train and dev.  Regressions: the Kolmogorov-Smirnov test and its statistic.

    Args:
        task: The task.
        train: Labels, `(rows,)`.
        dev: Labels, `(rows,)`.

    Returns:
        The `distance` (0 to 1), the test's `p` and a `text`; None unless p < 0.001 and the distance is above 0.1.
    """
    if not len(train) or not len(dev):
        return None
    if task.range is None:
        names, counts = _counts(task, train)
        both = np.stack([counts, _counts(task, dev)[1]])
        shares = both / both.sum(axis=1, keepdims=True)
        distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
        p = _chi_square(both) if distance > DRIFT_DISTANCE else 1.0
        most = int(np.abs(shares[0] - shares[1]).argmax())
        how = f"'{names[most]}' is {shares[0, most]:.1%} of train and {shares[1, most]:.1%} of dev"
        measure = "total variation"
    else:
        from scipy.stats import ks_2samp

        values = [column(labels).astype(np.float64, copy=False) for labels in (train, dev)]
        distance, p = map(float, ks_2samp(*values))
        how = f"their mean is {values[0].mean():.3g} in train and {values[1].mean():.3g} in dev"
        measure = "Kolmogorov-Smirnov"
    if p >= DRIFT_P or distance <= DRIFT_DISTANCE:
        return None
    text = f"labels differ between train and dev: {how} ({measure} {distance:.2f})"
    return {"distance": distance, "p": p, "text": text}


def _chi_square(counts: np.ndarray, deals: int = 4999) -> float:
    """p-value of two rows of counts, `(2, labels)`, if both have one distribution."""
    from scipy.stats import chi2_contingency

    counts = counts[:, counts.any(axis=0)]  # of a label that no row has, no count is expected to divide by
    together, dev = counts.sum(axis=0), int(counts[1].sum())
    expected = together * (dev / together.sum())
    if min(expected.min(), (together - expected).min()) >= 5:
        return float(chi2_contingency(counts).pvalue)
    dealt = np.random.default_rng(0).multivariate_hypergeometric(together, dev, size=deals, method="marginals")
    # The sums stay, so train differs as dev does the other way, and chi-square grows with dev's part of it.
    by_chance = ((dealt - expected) ** 2 / expected).sum(axis=1)
    seen = ((counts[1] - expected) ** 2 / expected).sum()
    return float((1 + np.sum(by_chance >= seen * (1 - 1e-9))) / (1 + deals))


def rows_digest(rows: Any) -> str:
    """SHA-256 of a split's texts and labels, in their order: that of the same rows is the same, in any file."""
    digest = hashlib.sha256()
    for batch in rows.iter(batch_size=10_000):  # memory stays flat
        digest.update(json.dumps([batch[name] for name in sorted(set(batch) - {"id"})]).encode())
    return digest.hexdigest()


def summarise(
    tasks: Mapping[str, Task], rows: Mapping[str, TaskData], features: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Numbers by task and split: rows read and used, their digest, rows dropped by reason, labels, truncated rows.

    A task whose train and dev labels differ has an entry `drift` beside its splits; see `label_drift`.
    """
    result: dict[str, Any] = {}
    for name, task in tasks.items():
        for split, used in rows[name].splits.items():
            lengths = column(features[name][split]["length"])
            reasons = Counter(f"{item.column}: {item.reason}" for item in rows[name].dropped[split])
            result.setdefault(name, {})[split] = {
                "read": rows[name].read[split],
                "used": len(used),
                "sha256": rows_digest(used),
                "dropped": dict(reasons),
                "dropped_rows": [f"{d.file}, line {d.line}" for d in rows[name].dropped[split]][:100],
                "label_shares": (shares := label_shares(task, used["label"])),
                "absent": [label for label in task.labels if split == "train" and not shares[label]],
                "mean_tokens": round(float(lengths.mean()), 1),
                "max_tokens": int(lengths.max()),
                "truncated": int(column(features[name][split]["truncated"]).sum()),
            }
        splits = rows[name].splits
        if "train" in splits and "dev" in splits:
            drift = label_drift(task, splits["train"]["label"], splits["dev"]["label"])
            if drift is not None:
                result[name]["drift"] = drift
    return result


def summary_text(summary: Mapping[str, Any]) -> str:
    """The summary as a table, with the dropped rows and the tasks whose train and dev labels differ below it."""
    lines, notes = [], []
    for name, task in summary.items():
        for split, facts in task.items():
            if split == "drift":
                notes.append(f"{name}: {facts['text']}")
                continue
            shares = " ".join(f"{label} {share:.1%}" for label, share in facts["label_shares"].items())
            tokens = f"{facts['mean_tokens']:.0f} / {facts['max_tokens']}"
            lines.append([name, split, f"{facts['used']:,}", tokens, f"{facts['truncated']:,}", shares])
            if facts.get("absent"):
                shown = ", ".join(f"'{label}'" for label in facts["absent"][:10])
                notes.append(f"{name}: no {split} row has the label {shown}: it can't be learnt")
            for reason, count in facts["dropped"].items():
                notes.append(f"dropped from {name} {split}: {count} row(s), {reason}")
            if facts["dropped"]:
                notes.append("  " + "; ".join(facts["dropped_rows"][:10]))
    heads = ["task", "split", "rows", "tokens mean / max", "truncated", "label shares"]
    return "\n".join([table(heads, lines), *notes])
