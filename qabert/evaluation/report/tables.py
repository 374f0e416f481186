"""Sections of the report that show numbers as they are: what was run, scores, prompts, labels, triplets, examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qabert.evaluation.report.documents import Block, Bullets, Cell, Code, Paragraph, Section, Table
from qabert.evaluation.report.paper import ENCODER_NOTES, SCORES_NOTE, SHARES_NOTES

_TITLES = {"accuracy": "accuracy", "macro_f1": "macro F1", "f1": "F1", "pearson": "Pearson", "spearman": "Spearman"}
#: A longer text of an example is cut.
_MOST_LETTERS = 400


def metric_title(task: str, metric: str) -> str:
    """How a score is called."""
    return f"{task} {_TITLES.get(metric, metric)}"


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign."""
    return "" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def plain_number(value: float | None, digits: int = 3) -> str:
    """A number; nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}".replace("-", "−")


def with_spread(values: Mapping[str, Any] | None) -> str:
    """Mean and, from three seeds on, the standard deviation over seeds."""
    if values is None:
        return ""
    spread = "" if values["spread"] is None else f" ± {values['spread']:.3f}"
    return f"{plain_number(values['mean'])}{spread}"


def share(value: float | None) -> str:
    """A share in percent."""
    return "" if value is None else f"{100 * value:.1f} %"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Keys and values on one line."""
    shown = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in settings.items()
    }
    return ", ".join(f"{key}: {value}" for key, value in shown.items())


def columns(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every task's metrics, in order."""
    return [(name, metric) for name, task in results["tasks"].items() for metric in task["metrics"]]


def run_section(results: Mapping[str, Any]) -> Section:
    """What was run, on what, and how long it took."""
    blocks: list[Block] = [Code(results["command"])] if results["command"] else []
    arms = results["arms"]
    head = ["arm", "differs in", "what it is", "rows drawn", "answers", "seeds"]
    rows: list[list[Cell]] = []
    for arm, facts in arms.items():
        seeds = ", ".join(map(str, facts["seeds"]))
        rows.append([arm, settings_text(facts["settings"]), facts["note"], facts["sampling"], facts["answers"], seeds])
    blocks.append(Table("The arms: ways to train", head, rows))
    if results["missing"]:
        by_arm: dict[str, list[str]] = {}
        for run in results["missing"]:
            by_arm.setdefault(run["arm"], []).append(str(run["seed"]))
        # An arm that has no run at all was hardly meant to have one (`--arms`): its seeds need no names.
        runs = ", ".join(f"{arm} (seed {', '.join(seeds)})" if arm in arms else arm for arm, seeds in by_arm.items())
        blocks.append(Paragraph(f"Not finished, and so not in this report: {runs}."))
    versions = ", ".join(f"{name} {' and '.join(found)}" for name, found in results["versions"].items())
    facts_rows = [[key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
                  for key, value in results["settings"].items()]  # fmt: skip
    facts_rows += [["machine", settings_text(results["machine"])], ["versions", versions]]
    blocks.append(Table("What all arms share", ["key", "value"], facts_rows))
    data = [
        [name, split, str(entry.get("file", "")), f"{entry.get('rows', 0):,}", str(entry.get("sha256", ""))[:16]]
        for name, splits in results["fingerprints"].items()
        for split, entry in splits.items()
    ]
    if data:
        caption = (
            "The data (SHA-256 of the rows as they were read: the first 16 of 64 digits, all of them in results.json)"
        )
        blocks.append(Table(caption, ["task", "split", "file", "rows", "SHA-256"], data))
    notes = [ENCODER_NOTES[name] for name in results["encoders"] if name in ENCODER_NOTES]
    return Section("What was run", [*blocks, *map(Paragraph, notes)])


def results_section(results: Mapping[str, Any]) -> Section:
    """The paper's tables beside ours."""
    blocks: list[Block] = [
        Table(_caption("Dev scores", results), *_scores(results, results["scores"], results["overall"]))
    ]
    if results["paper"]:
        blocks.append(Paragraph(SCORES_NOTE))
    if results["scores_with_prior"]:
        arms = ", ".join(results["moved_by_prior"])
        blocks += [
            Table(
                _caption("Dev scores with the training shares as prior", results),
                *_scores(results, results["scores_with_prior"], results["overall_with_prior"]),
            ),
            Paragraph(
                "Drawing every label equally often teaches a model that all are equally frequent. In the second table "
                f"each probability of {arms} is multiplied by its label's share of the training rows and renormalised; "
                "the models are the same. All other arms, and all regressions, stand as in the first table."
            ),
        ]
    if results["prompts"]:
        blocks.append(_prompts(results["prompts"]))
    if results["label_shares"]:
        blocks.append(_label_shares(results["label_shares"]))
        blocks += [Paragraph(note) for name, note in SHARES_NOTES.items() if name in results["tasks"]]
    return Section("Results beside the paper's" if results["paper"] else "Results", blocks)


def _caption(title: str, results: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{count:,} rows of {name}" for name, count in results["dev_rows"].items())
    over = "mean ± standard deviation over seeds" if len(results["seeds"]) >= 3 else "mean over seeds"
    return f"{title}: {over if len(results['seeds']) > 1 else 'one seed'} ({rows})"


def _scores(
    results: Mapping[str, Any], scores: Mapping[str, Any], overall: Mapping[str, Any]
) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows: each arm, and under it what the paper reports of its model."""
    shown = columns(results)
    head = ["model", *(metric_title(*column) for column in shown), "mean of first metrics", "examples", "minutes"]
    majority = results["majority"]
    rows: list[list[Cell]] = []
    if majority:
        values = [plain_number(majority.get(name, {}).get(metric)) for name, metric in shown]
        rows.append(["always the same answer", *values, "", "", ""])
    for arm, of_arm in scores.items():
        values = [with_spread(of_arm.get(name, {}).get(metric)) for name, metric in shown]
        rows.append([arm, *values, with_spread(overall[arm]), *_effort(results["arms"][arm])])
        theirs = results["paper"].get(results["arms"][arm]["paper"])
        if theirs:
            values = [plain_number(theirs.get(name, {}).get(metric)) for name, metric in shown]
            rows.append([f"paper: {results['arms'][arm]['paper']}", *values, "", "", ""])
    return head, rows


def _effort(arm: Mapping[str, Any]) -> tuple[str, str]:
    """Examples and minutes of a run's training, a triplet stage's minutes apart."""
    stage = arm["triplet_seconds"]
    minutes = f"{arm['train_seconds']['mean'] / 60:.1f}" + (f" + {stage['mean'] / 60:.1f} triplet" if stage else "")
    return f"{arm['train_examples']['mean']:,.0f}", minutes


def _prompts(prompts: list[Mapping[str, Any]]) -> Table:
    paper = any(prompt["paper_question"] for prompt in prompts)
    head = ["task", "our question", "our context", "an example"]
    head += ["the paper's question", "the paper's example"] if paper else []
    rows: list[list[Cell]] = []
    for prompt in prompts:
        row: list[Cell] = [prompt["task"], prompt["question"], prompt["context"], _cut(prompt["example"] or "")]
        rows.append(row + ([prompt["paper_question"] or "", prompt["paper_example"] or ""] if paper else []))
    return Table(f"Prompts (arm {prompts[0]['arm']})", head, rows)


def _label_shares(lines: list[Mapping[str, Any]]) -> Table:
    paper = any(line["paper"] for line in lines)
    head = ["task", "label", "train", *(["train, paper"] if paper else []), "dev", *(["dev, paper"] if paper else [])]
    rows: list[list[Cell]] = []
    for line in lines:
        row: list[Cell] = [line["task"], line["label"]]
        for split in ("train", "dev"):
            row.append(share(line["ours"][split]))
            row += [share(line["paper"].get(split))] if paper else []
        rows.append(row)
    return Table("Label shares; a regression's labels by the nearest fifth of their range", head, rows)


def triplet_section(results: Mapping[str, Any]) -> Section:
    """The stage before the multitask training, by its own measures."""
    section = Section("The triplet stage")
    for arm, stage in results["triplet"].items():
        rows: list[list[Cell]] = [
            [key, plain_number(sides["before"]), plain_number(sides["after"])]
            for key, sides in stage["measures"].items()
        ]
        if rows:
            loss = f", loss {', '.join(stage['loss'])}" if stage["loss"] else ""
            title = f"{arm}{loss}: measures on dev frames, mean over {stage['runs']} run(s)"
            section.blocks.append(Table(title, ["measure", "before", "after"], rows))
        said = []
        if stage["frames"]:
            said.append(
                "Frames: " + ", ".join(f"{count:,.0f} of {name}" for name, count in stage["frames"].items()) + "."
            )
        if any(stage["skipped"].values()):
            left = ", ".join(f"{count:,.0f} of {name}" for name, count in stage["skipped"].items())
            said.append(f"Anchors that nothing could be found for: {left}.")
        zeros = list(stage["hinge_zero"].items())
        if zeros:
            said.append(
                "Share of anchors whose hinge is zero, which equation 1 learns nothing from: "
                + ", ".join(f"{share(value)} at step {step}" for step, value in dict((zeros[0], zeros[-1])).items())
                + "."
            )
        if stage["seconds"] is not None:
            said.append(f"It took {stage['seconds'] / 60:.1f} minutes.")
        if said:
            section.blocks.append(Bullets([f"{arm}: {sentence}" for sentence in said]))
    return section


def examples_section(results: Mapping[str, Any]) -> Section:
    """Rows that one model gets right and the others wrong."""
    blocks: list[Block] = []
    for name, found in results["examples"].items():
        if not found:
            continue
        models = list(found[0]["answers"])
        rows: list[list[Cell]] = []
        for example in found:
            texts = tuple(_cut(text) for text in example["texts"]) or (example["id"],)
            answers = [" / ".join(dict.fromkeys(example["answers"][model])) for model in models]
            rows.append([f"{example['right']} ({example['rows_like_it']:,})", texts, example["label"], *answers])
        head = ["only right (rows like it)", "row", "true", *models]
        blocks.append(Table(f"{name}: rows that one model gets right and the others wrong", head, rows))
    if blocks:
        told = "Right and wrong with every seed; where seeds answer differently, all their answers stand there."
        blocks.insert(
            0, Paragraph(f"{told} Of each model's rows these are the ones where the others are furthest off.")
        )
    return Section("Examples", blocks)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + " …"
