"""Why this answer?  How much each word of a row counts, and where a model looks over many rows.

How tokens are scored stands in `methods`, which part of the row they are in `tokens`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from qabert.errors import InputError
from qabert.evaluation.saliency.methods import (
    METHODS,
    STEPS,
    attention_rollout,
    baseline_token,
    check_methods,
    integrated_gradients,
)
from qabert.evaluation.saliency.tokens import SEGMENTS, Reading, SegmentEncoder, Word
from qabert.inference import Predictor
from qabert.tasks import Task

MIN_COUNT = 5  # a word seen less often says more about its row than about the task
TOP_WORDS = 30


@dataclass(frozen=True)
class Explanation:
    """How much each token counted for one answer.

    Args:
        task: The task's name.
        answer: What `Predictor.predict` answered.
        target: What the gradients explain, in words.
        tokens: The row's tokens, those of a second input after those of the first.
        segments: Each token's segment, one of `SEGMENTS`.
        words: The tokens joined into words.
        scores: By method, `(tokens,)`.  `rollout`: shares that sum to 1 (in the `separate` format each sentence of a
            pair has half); `gradients`: signed, in logits or in the unit of the task's range.
        change: The target's output less that for the baseline; the gradients should sum to it.  None without them.
        gap: By how much they don't (completeness); more steps make it smaller.
        truncated: Whether the end of a sentence was cut off.
    """

    task: str
    answer: dict[str, Any]
    target: str
    tokens: list[str]
    segments: list[str]
    words: list[Word]
    scores: dict[str, np.ndarray]
    change: float | None
    gap: float | None
    truncated: bool

    def word_scores(self, method: str) -> np.ndarray:
        """The sum of each word's tokens, `(words,)`."""
        return np.array([self.scores[method][list(word.tokens)].sum() for word in self.words])

    def shares(self, method: str) -> dict[str, float]:
        """Each segment's share of the absolute scores; they sum to 1, or to 0 where all scores are 0."""
        absolute = np.abs(self.scores[method])
        total = absolute.sum() or 1.0
        segments = np.array(self.segments)
        return {name: float(absolute[segments == name].sum() / total) for name in SEGMENTS}


def explain(
    predictor: Predictor,
    task: str,
    text_a: str,
    text_b: str | None = None,
    methods: Sequence[str] = METHODS,
    steps: int = STEPS,
) -> Explanation:
    """Explain the answer to one row.

    Raises:
        InputError: See `explain_rows`.

    Example:
        >>> explanation = explain(predictor, "sst", "A lovely film.")
        >>> 0 <= explanation.shares("gradients")["sentence_a"] <= 1
        True
    """
    return explain_rows(predictor, task, [(text_a, text_b)], methods, steps)[0]


def explain_rows(
    predictor: Predictor,
    task: str,
    rows: Iterable[tuple[str, str | None]],
    methods: Sequence[str] = METHODS,
    steps: int = STEPS,
    batch_size: int = 8,
) -> list[Explanation]:
    """Explain the answers to rows, in their order, with a progress bar if it takes over 2 seconds.

    Args:
        predictor: The model.
        task: One of its tasks.
        rows: `(text_a, text_b)`; None for `text_b` where the task takes one sentence.
        methods: Some of `METHODS`.
        steps: Points of the path from the baseline at which gradients are taken (Gauss–Legendre quadrature).
        batch_size: Rows per encoder call.  All layers' attentions of a batch are held in memory at once.

    Raises:
        InputError: No such task or method, captum isn't installed, a row that the task can't take, or an encoder that
            gives no attentions.
    """
    check_methods(methods)
    if steps < 1 or batch_size < 1:
        raise InputError(f"steps {steps} and batch_size {batch_size}: expected whole numbers over 0")
    declared, config = predictor.task(task), predictor.model.config
    rows = list(rows)
    answers = list(predictor.predict(task, rows, batch_size))
    encoder = SegmentEncoder(config.input_format, predictor.tokenizer, declared, config.max_length)
    readings = [encoder.read(text_a, text_b) for text_a, text_b in rows]
    order = sorted(range(len(rows)), key=lambda number: -readings[number].feature["length"])  # batches of like length
    explained: dict[int, Explanation] = {}
    with tqdm(total=len(rows), desc=task, unit="row", delay=2, disable=len(rows) == 1) as bar:
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = [readings[number] for number in chosen]
            explanations = _explain_batch(predictor, declared, batch, [answers[n] for n in chosen], methods, steps)
            explained.update(zip(chosen, explanations, strict=True))
            bar.update(len(chosen))
    return [explained[number] for number in range(len(rows))]


def _explain_batch(
    predictor: Predictor,
    task: Task,
    readings: list[Reading],
    answers: list[dict[str, Any]],
    methods: Sequence[str],
    steps: int,
) -> list[Explanation]:
    model = predictor.model
    batch = predictor.collator([reading.feature for reading in readings])
    inputs = {key: value.to(model.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
    real = inputs["attention_mask"].bool()
    count = len(readings)
    places = [range(number, len(real), count) for number in range(count)]  # where a row's inputs are in the batch
    scores: list[dict[str, np.ndarray]] = [{} for _ in readings]
    change: list[float | None] = [None] * count
    gap: list[float | None] = [None] * count

    def spread(method: str, values: torch.Tensor) -> None:
        for number, row in enumerate(places):
            scores[number][method] = torch.cat([values[n][real[n]] for n in row]).double().cpu().numpy()

    for method in methods:
        if method == "rollout":
            segments = len(real) // count
            spread(method, attention_rollout(model, inputs) / segments)
            continue
        special = torch.ones_like(real)
        for reading, row in zip(readings, places, strict=True):
            flags = torch.tensor([segment == "special" for segment in reading.segments], device=real.device)
            for n, own in zip(row, flags.split([int(real[n].sum()) for n in row]), strict=True):
                special[n, real[n]] = own
        baseline = torch.where(special, inputs["input_ids"], baseline_token(model, predictor.tokenizer))
        classes = [task.labels.index(answer["label"]) if task.num_outputs > 1 else 0 for answer in answers]
        target = torch.tensor(classes, device=real.device)
        attributions, difference = integrated_gradients(model, task, inputs, baseline, target, steps)
        spread(method, attributions)
        for number in range(count):
            change[number] = float(difference[number])
            gap[number] = abs(float(scores[number][method].sum()) - float(difference[number]))
    return [
        Explanation(task.name, answer, _target(task, answer), r.tokens, r.segments, r.words, s, c, g, r.truncated)
        for r, answer, s, c, g in zip(readings, answers, scores, change, gap, strict=True)
    ]


def _target(task: Task, answer: dict[str, Any]) -> str:
    if task.range is not None:
        return f"the value, from {task.range[0]:g} to {task.range[1]:g}"
    return f"the logit of '{answer['label'] if task.problem == 'classification' else task.labels[1]}'"


def sample_rows(rows: Any, count: int, seed: int) -> list[tuple[str, str | None]]:
    """A random sample of dataset rows (`text_a`, `text_b`), the same for the same seed, in the dataset's order."""
    chosen = np.random.default_rng(seed).choice(len(rows), min(count, len(rows)), replace=False)
    return [(rows[number]["text_a"], rows[number]["text_b"]) for number in sorted(chosen.tolist())]


def saliency_summary(
    predictor: Predictor,
    task: str,
    rows: Iterable[tuple[str, str | None]],
    methods: Sequence[str] = METHODS,
    steps: int = STEPS,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Where a model looks, over rows; see `explain_rows` and `summarise`."""
    return summarise(explain_rows(predictor, task, rows, methods, steps, batch_size))


def summarise(explanations: Sequence[Explanation], min_count: int = MIN_COUNT) -> dict[str, Any]:
    """Where a model looks, over the explanations of one task's rows.

    Returns:
        Plain values for JSON.  `rows`; `truncated` (rows); `tokens`: a row's mean number in each segment; `methods`, by
        name: `share`, each segment's share of a row's absolute scores, mean over the rows; `share_per_token`, that
        divided by the segment's tokens (a long segment gets more because it is long); `words` of the sentences and
        `prompt_words` of question and template, seen at least `min_count` times, lower case, with `count`,
        `mean_absolute` (by which they are sorted) and the signed `mean`.  `completeness`, where there are gradients:
        mean and largest `gap`, mean absolute `change`, and the first divided by the last, `relative`.

    Raises:
        ValueError: No explanations, or those of several tasks.
    """
    if len({one.task for one in explanations}) != 1:
        raise ValueError("expected explanations of one task's rows")
    tokens = {name: float(np.mean([one.segments.count(name) for one in explanations])) for name in SEGMENTS}
    summary: dict[str, Any] = {
        "task": explanations[0].task,
        "rows": len(explanations),
        "truncated": sum(one.truncated for one in explanations),
        "tokens": tokens,
        "methods": {},
    }
    for method in explanations[0].scores:
        shares = [one.shares(method) for one in explanations]
        share = {name: float(np.mean([row[name] for row in shares])) for name in SEGMENTS}
        summary["methods"][method] = {
            "share": share,
            "share_per_token": {name: share[name] / tokens[name] if tokens[name] else 0.0 for name in SEGMENTS},
            "words": _top_words(explanations, method, ("sentence_a", "sentence_b"), min_count),
            "prompt_words": _top_words(explanations, method, ("question", "template"), min_count),
        }
    gaps = [one.gap for one in explanations if one.gap is not None]
    if gaps:
        gap = float(np.mean(gaps))
        change = float(np.mean([abs(one.change) for one in explanations if one.change is not None]))
        relative = gap / change if change else 0.0
        summary["completeness"] = {"gap": gap, "largest_gap": max(gaps), "change": change, "relative": relative}
    return summary


def _top_words(
    explanations: Sequence[Explanation], method: str, segments: Sequence[str], min_count: int
) -> list[dict[str, Any]]:
    seen: dict[str, list[float]] = defaultdict(list)
    for one in explanations:
        for word, score in zip(one.words, one.word_scores(method), strict=True):
            if word.segment in segments:
                seen[word.text.lower()].append(float(score))
    words: list[dict[str, Any]] = [
        {
            "word": word,
            "count": len(values),
            "mean_absolute": float(np.abs(values).mean()),
            "mean": float(np.mean(values)),
        }
        for word, values in seen.items()
        if len(values) >= min_count
    ]
    return sorted(words, key=lambda word: (-word["mean_absolute"], word["word"]))[:TOP_WORDS]
