"""Sections of the report whose sentences follow from the numbers: differences between arms, why the qa format works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from qabert.evaluation.report.documents import Block, Bullets, Cell, Paragraph, Section, Table
from qabert.evaluation.report.paper import ENCODER_NOTES
from qabert.evaluation.report.tables import columns, metric_title, plain_number, share, signed

_INTERVALS = (
    "Each interval holds 95 % of the differences over {samples:,} resamples of the dev rows (the same rows for both "
    "arms, seeds paired). It knows nothing of the noise between trainings{noise} A difference counts as shown where "
    "the interval leaves 0 out and no seed points the other way. Nothing is corrected for the number of comparisons: "
    "of twenty intervals where there is no difference, one leaves 0 out by chance."
)
_LIMITS = (
    "All scores are of the dev split, which also chose a run's best epoch where runs keep that; none is of a test.",
    "The arms differ from the paper's models in encoder, data and length of training wherever section 1 says so: a "
    "difference here need not have the paper's size.",
    "Resampled rows say how a difference would vary with other rows of the same kind, not with other data.",
    "Saliency says where a model's answer comes from by one definition each; a share is no cause.",
)


def sentence(entry: Mapping[str, Any]) -> str:
    """A difference in words: `qa − joint: sst accuracy +0.003 [−0.021, +0.026]: no difference can be shown`."""
    return f"{entry['b']} − {entry['a']}: {_short(entry)}: {entry['reading']}"


def _short(entry: Mapping[str, Any]) -> str:
    return f"{metric_title(entry['task'], entry['metric'])} {signed(entry['mean'])} {_interval(entry)}"


def _interval(entry: Mapping[str, Any]) -> str:
    return f"[{signed(entry['low'])}, {signed(entry['high'])}]"


def differences(results: Mapping[str, Any]) -> Section:
    """The arms that are to be compared, with intervals, and the paper's order."""
    blocks: list[Block] = []
    if results["differences"]:
        enough = len(results["seeds"]) >= 3
        noise = (
            ": that is what the standard deviation over seeds shows." if enough else ", and so few seeds don't show it."
        )
        blocks.append(Paragraph(_INTERVALS.format(samples=results["samples"], noise=noise)))
        blocks.append(Bullets(_by_pair(results["differences"])))
        blocks.append(_table("Differences between arms, in points of the score", results["differences"]))
    if results["differences_with_prior"]:
        title = "The same with the training shares as prior, where an arm's answers change by it"
        blocks.append(_table(title, results["differences_with_prior"]))
    order = results["paper_order"]
    if order:
        blocks.append(Bullets([_order(line) for line in order]))
    return Section("Differences between the arms", blocks)


def _by_pair(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per pair of arms: what it shows, what it doesn't."""
    sentences = []
    for (a, b), group in groupby(entries, key=lambda entry: (entry["a"], entry["b"])):
        by_reading: dict[str, list[str]] = {}
        for entry in group:
            by_reading.setdefault(entry["reading"], []).append(_short(entry))
        parts = [f"{said} in {', '.join(found)}" for said, found in sorted(by_reading.items(), key=_shown_first)]
        sentences.append(f"{b} − {a}: {'; '.join(parts)}.")
    return sentences


def _shown_first(item: tuple[str, list[str]]) -> bool:
    return "no difference" in item[0]


def _table(title: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    over_seeds = any(entry["spread"] is not None for entry in entries)
    rows: list[list[Cell]] = []
    for entry in entries:
        row: list[Cell] = [f"{entry['b']} − {entry['a']}", metric_title(entry["task"], entry["metric"])]
        row += [signed(entry["mean"]), _interval(entry)]
        row += [plain_number(entry["spread"])] if over_seeds else []
        rows.append([*row, f"{entry['p_value']:.3f}", entry["reading"]])
    seeds = ["over seeds (sd)"] if over_seeds else []
    return Table(title, ["arms", "score", "difference", "95 % interval", *seeds, "p", "reading"], rows)


def _order(line: Mapping[str, Any]) -> str:
    chain = " < ".join(line["arms"])
    steps = ", ".join(f"{signed(step['mean'])} {_interval(step)}" for step in line["steps"])
    if line["holds"]:
        verdict = "holds" if line["shown"] else "holds in the means, but not every step is shown"
    elif any(step["shown"] and step["mean"] < 0 for step in line["steps"]):
        verdict = "doesn't hold"
    else:
        verdict = "doesn't hold in the means, but no step back is shown either"
    return f"The paper's order {chain} in {metric_title(line['task'], line['metric'])}: {verdict} ({steps})."


def reasons(results: Mapping[str, Any]) -> Section:
    """Encoding against question, other questions at test and training time, pooling, saliency."""
    roles = results["roles"]
    blocks: list[Block] = []
    told = [*_gains(results), *_trained(roles), *_asked(results), *_pooling(results), *_looks(results)]
    if told:
        blocks += [Paragraph("What the figures show:"), Bullets(told)]
    trained = [entry for role, entries in roles.items() for entry in entries if role not in ("both",)]
    if trained:
        blocks.append(_table("The comparisons behind these sentences", trained))
    if results["questions"]:
        blocks.append(_question_table(results))
        texts = results["question_texts"]
        rows: list[list[Cell]] = [
            [variant, name, question] for variant, by_task in texts.items() for name, question in by_task.items()
        ]
        if rows:
            blocks.append(Table("What else was asked", ["variant", "task", "question"], rows))
    if results["saliency"]:
        blocks.append(_saliency_table(results["saliency"]))
    if blocks:
        notes = [ENCODER_NOTES[name] for name in results["encoders"] if name in ENCODER_NOTES]
        blocks += [Paragraph("What they don't show:"), Bullets([*_LIMITS, *notes])]
    return Section("Why the question-answer format works", blocks)


def _first(results: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The difference in a task's first metric."""
    metric = results["tasks"][name]["metrics"][0]
    return next((entry for entry in entries if (entry["task"], entry["metric"]) == (name, metric)), None)


def _gains(results: Mapping[str, Any]) -> list[str]:
    """How much of the gain comes with the encoding of both sentences together, how much with the question."""
    roles, said = results["roles"], []
    for name, task in results["tasks"].items():
        both, encoding, question = (
            _first(results, roles.get(role, []), name) for role in ("both", "encoding", "question")
        )
        if question is None:
            continue
        asked = f"the question {signed(question['mean'])} {_interval(question)} ({question['reading']})"
        if both is None or encoding is None:
            said.append(f"{metric_title(name, task['metrics'][0])}, {question['a']} against {question['b']}: {asked}.")
            continue
        encoded = f"{signed(encoding['mean'])} {_interval(encoding)} ({encoding['reading']})"
        joined = "both sentences in one input" if task["pair"] else "the other tasks' pairs in one input"
        joined += _sampling(results, encoding)
        said.append(
            f"{metric_title(name, task['metrics'][0])}, from {both['a']} to {both['b']} {signed(both['mean'])}: "
            f"{joined} {encoded}, {asked}."
        )
    return said


def _sampling(results: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """What else two arms differ in: how their rows are drawn."""
    drawn = [results["arms"][entry[side]]["sampling"] for side in ("a", "b")]
    return "" if drawn[0] == drawn[1] else f" (and rows drawn {drawn[1]} instead of {drawn[0]})"


def _trained(roles: Mapping[str, Any]) -> list[str]:
    said = []
    for role, entries in roles.items():
        if role.startswith("trained") and entries:
            lower, rest = _lower(entries)
            said.append(f"A model {role} ({entries[0]['b']} against {entries[0]['a']}): {lower}{rest}.")
    return said


def _pooling(results: Mapping[str, Any]) -> list[str]:
    entries = results["roles"].get("pooling", [])
    if not entries:
        return []
    lower, rest = _lower(entries)
    arms = f"{entries[0]['b']} against {entries[0]['a']}{_sampling(results, entries[0])}"
    return [f"The mean of the tokens' states for the first token's, {arms}: {lower}{rest}."]


def _lower(entries: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    shown = [_short(entry) for entry in entries if entry["shown"]]
    rest = len(entries) - len(shown)
    if not shown:
        return "no difference can be shown in any score", ""
    return f"a difference in {', '.join(shown)}", f"; none can be shown in the other {rest}" if rest else ""


def _asked(results: Mapping[str, Any]) -> list[str]:
    """Mean change per variant of the question at test time."""
    said = []
    for arm, variants in results["questions"].items():
        for variant, by_task in variants.items():
            changes = [
                f"{metric_title(name, metrics[0])} {signed(by_task[name][metrics[0]]['mean'])}"
                for name, metrics in ((name, task["metrics"]) for name, task in results["tasks"].items())
                if metrics[0] in by_task.get(name, {})
            ]
            if variant != "own" and changes:
                said.append(f"{arm}, asked the questions '{variant}' at test time: {', '.join(changes)}.")
    return said


def _question_table(results: Mapping[str, Any]) -> Table:
    shown = columns(results)
    rows: list[list[Cell]] = []
    for arm, variants in results["questions"].items():
        for variant, by_task in variants.items():
            cells = [by_task.get(name, {}).get(metric) for name, metric in shown]
            title = "own (the score)" if variant == "own" else f"{variant} (the change)"
            texts = [
                "" if cell is None else plain_number(cell["mean"]) if variant == "own" else signed(cell["mean"])
                for cell in cells
            ]
            rows.append([arm, title, *texts])
    head = ["arm", "question at test time", *(metric_title(*column) for column in shown)]
    return Table("Other questions at test time, the model unchanged: means over seeds", head, rows)


def _looks(results: Mapping[str, Any]) -> list[str]:
    """The largest share of each arm's saliency outside the sentences, by method, over the tasks."""
    said = []
    for arm, by_task in results["saliency"].items():
        methods = dict.fromkeys(method for by_method in by_task.values() for method in by_method)
        for method in methods:
            shares = {
                name: by_method[method]["share"].get("question")
                for name, by_method in by_task.items()
                if method in by_method
            }
            known = [f"{name} {share(value)}" for name, value in shares.items() if value]
            if known:
                said.append(f"{arm}: the question's share of the saliency by {method} is {', '.join(known)}.")
    return said


def _saliency_table(saliency: Mapping[str, Any]) -> Table:
    found = [
        (arm, name, method, measures)
        for arm, by_task in saliency.items()
        for name, by_method in by_task.items()
        for method, measures in by_method.items()
    ]
    segments = list(dict.fromkeys(segment for *_, measures in found for segment in measures["share"]))
    words = any(measures["words"] for *_, measures in found)
    rows: list[list[Cell]] = []
    for arm, name, method, measures in found:
        cells: list[Cell] = [
            (share(measures["share"].get(segment) or None), f"({share(value)})")  # 0: the input has no such part
            if (value := measures["per_token"].get(segment))
            else share(measures["share"].get(segment) or None)
            for segment in segments
        ]
        rows.append([arm, name, method, *cells, *([", ".join(measures["words"])] if words else [])])
    head = ["arm", "task", "method", *segments, *(["weightiest words"] if words else [])]
    return Table(
        "Where the models look: shares of the saliency by part of the input (in brackets: per token)", head, rows
    )
