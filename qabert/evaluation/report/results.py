"""The numbers of a reproduction's report: every number that it shows, as plain values."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from qabert.answers import decide
from qabert.evaluation.metrics import METRIC_FUNCTIONS
from qabert.evaluation.report import paper
from qabert.evaluation.report.analyses import (
    examples,
    label_shares,
    prompts,
    question_changes,
    saliency_shares,
    spread,
    triplet_measures,
)
from qabert.evaluation.report.bootstrap import paired_bootstrap
from qabert.evaluation.report.documents import plain
from qabert.evaluation.report.priors import needs_prior, training_shares, with_prior
from qabert.evaluation.report.reproduction import Reproduction, Run

#: Arms that answer a question of their own, where a reproduction has them: the first pair that is there counts.
ROLES: dict[str, tuple[tuple[str, str], ...]] = {
    "encoding": (("separate", "joint"), ("baseline", "joint")),
    "question": (("joint", "qa"),),
    "both": (("separate", "qa"), ("baseline", "qa")),
    "trained with another question": (("qa", "qa_other"),),
    "trained with shuffled questions": (("qa", "qa_shuffled"),),
    "trained with a sentence that asks nothing": (("qa", "qa_neutral"),),
    "pooling": (("separate", "separate_mean"), ("baseline", "separate_mean")),
}
#: Models that examples and the figures of single models show: the paper's, then others.
MOST_MODELS = 4


class Collector:
    """Computes a reproduction's numbers; each difference once."""

    def __init__(self, reproduction: Reproduction, samples: int) -> None:
        self.reproduction, self.samples = reproduction, samples
        self.tasks, self.runs = reproduction.tasks, reproduction.runs
        self.known: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
        self.priors = {
            arm: [
                name
                for name in self.tasks
                if all(name in run.tasks and training_shares(run, name) is not None for run in by_seed.values())
            ]
            for arm, by_seed in self.runs.items()
            if all(needs_prior(run) for run in by_seed.values())
        }

    def answers(self, run: Run, task: str, prior: bool = False) -> np.ndarray:
        """A run's answers; with `prior` those of re-weighted training moved to the training rows' shares."""
        answers = run.predictions[task].answers
        if prior and task in self.priors.get(run.arm, []):
            shares = training_shares(run, task)
            assert shares is not None  # `priors` has only tasks with shares
            return with_prior(self.tasks[task], answers, shares)
        return answers

    def scores(self, arm: str, prior: bool = False) -> dict[str, Any]:
        """By task and metric: the score of each seed, their mean and spread."""
        result: dict[str, Any] = {}
        for name, task in self.tasks.items():
            for metric in task.metrics:
                by_seed = {}
                for seed, run in self.runs[arm].items():
                    if name not in run.tasks:
                        continue
                    if prior and name in self.priors.get(arm, []):
                        predicted = decide(task, self.answers(run, name, prior))
                        by_seed[seed] = METRIC_FUNCTIONS[metric](predicted, self.reproduction.labels[name])
                    else:
                        by_seed[seed] = float(run.metrics["scores"][name][metric])
                if by_seed:
                    result.setdefault(name, {})[metric] = spread(by_seed)
        return result

    def overall(self, scores: Mapping[str, Any]) -> dict[str, Any] | None:
        """The mean of every task's first metric, over seeds; None where an arm lacks a task."""
        if set(scores) != set(self.tasks):
            return None
        first = [scores[name][task.score]["by_seed"] for name, task in self.tasks.items()]
        seeds = set.intersection(*(set(by_seed) for by_seed in first))
        return spread({seed: float(np.mean([by_seed[seed] for by_seed in first])) for seed in sorted(seeds)})

    def differences(self, a: str, b: str, prior: bool = False) -> list[dict[str, Any]]:
        """Of b − a: every metric of every task that both have, over the seeds that both have."""
        if (a, b, prior) not in self.known:
            self.known[a, b, prior] = [
                self._difference(a, b, name, metric, prior)
                for name, task in self.tasks.items()
                if self._seeds(a, b, name) and not (prior and task.problem == "regression")
                for metric in task.metrics
            ]
        return self.known[a, b, prior]

    def _seeds(self, a: str, b: str, task: str) -> list[int]:
        return [
            seed
            for seed, run in self.runs.get(a, {}).items()
            if seed in self.runs.get(b, {}) and task in run.tasks and task in self.runs[b][seed].tasks
        ]

    def _difference(self, a: str, b: str, name: str, metric: str, prior: bool) -> dict[str, Any]:
        seeds = self._seeds(a, b, name)
        of_a, of_b = ([self.answers(self.runs[arm][seed], name, prior) for seed in seeds] for arm in (a, b))
        found = paired_bootstrap(
            self.tasks[name], metric, self.reproduction.labels[name], of_a, of_b, samples=self.samples
        )
        values = {
            "a": a,
            "b": b,
            "task": name,
            "metric": metric,
            "with_prior": prior,
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "p_value": found.p_value,
            "spread": found.spread,
            "by_seed": dict(zip(seeds, found.by_seed, strict=True)),
            "shown": found.shown,
        }
        return values | {"reading": reading(values)}


def collect(reproduction: Reproduction, samples: int = 2000) -> dict[str, Any]:
    """All numbers of the report, ready for JSON.

    Args:
        reproduction: The runs.
        samples: Resamples of each paired bootstrap.
    """
    collector = Collector(reproduction, samples)
    runs, tasks = reproduction.runs, reproduction.tasks
    pairs = [pair for pair in reproduction.compare if pair[0] in runs and pair[1] in runs]
    affected = [pair for pair in pairs if {*pair} & set(collector.priors)] if any(collector.priors.values()) else []
    scores = {arm: collector.scores(arm) for arm in runs}
    moved = {arm: collector.scores(arm, prior=True) for arm in runs} if any(collector.priors.values()) else {}
    first = next(iter(next(iter(runs.values())).values()))
    results = {
        "command": reproduction.command,
        "settings": reproduction.settings,
        "seeds": reproduction.seeds,
        "missing": [{"arm": arm, "seed": seed} for arm, seed in reproduction.missing],
        "samples": samples,
        "machine": first.metrics.get("machine") or {"system": platform.platform(), "cores": os.cpu_count()},
        "versions": {
            name: sorted({str(run.metrics.get("versions", {}).get(name)) for run in _all(runs)} - {"None"})
            for name in first.metrics.get("versions", {})
        },
        "encoders": sorted({str(run.metrics["arguments"].get("encoder")) for run in _all(runs)} - {"None"}),
        "arms": {arm: _arm(reproduction, arm) for arm in runs},
        "fingerprints": reproduction.fingerprints,
        "tasks": {name: {"problem": t.problem, "metrics": t.metrics, "pair": t.pair} for name, t in tasks.items()},
        "dev_rows": {name: len(labels) for name, labels in reproduction.labels.items()},
        "majority": first.metrics.get("majority") or {},
        "scores": scores,
        "overall": {arm: collector.overall(of_arm) for arm, of_arm in scores.items()},
        "scores_with_prior": moved,
        "overall_with_prior": {arm: collector.overall(of_arm) for arm, of_arm in moved.items()},
        "moved_by_prior": sorted(arm for arm, names in collector.priors.items() if names),
        "paper": {
            model: {name: by_metric for name, by_metric in of_model.items() if name in tasks}
            for model, of_model in paper.SCORES.items()
            if any(name in tasks for name in of_model) and model in {reproduction.paper.get(arm) for arm in runs}
        },
        "prompts": prompts(reproduction),
        "label_shares": label_shares(reproduction),
        "differences": [entry for pair in pairs for entry in collector.differences(*pair)],
        "differences_with_prior": [entry for pair in affected for entry in collector.differences(*pair, prior=True)],
        "paper_order": _paper_order(collector),
        "roles": {
            role: collector.differences(*pair)
            for role, choices in ROLES.items()
            for pair in [next((pair for pair in choices if pair[0] in runs and pair[1] in runs), None)]
            if pair is not None
        },
        "triplet": {
            arm: triplet_measures(list(by_seed.values())) for arm, by_seed in runs.items() if _has(by_seed, "triplet")
        },
        "questions": {
            arm: question_changes(by_seed, tasks) for arm, by_seed in runs.items() if _has(by_seed, "questions")
        },
        "question_texts": reproduction.questions,
        "saliency": {arm: saliency_shares(by_seed) for arm, by_seed in runs.items() if _has(by_seed, "saliency")},
        "models_shown": shown_models(reproduction),
        "examples": {name: examples(reproduction, name, shown_models(reproduction)) for name in tasks},
    }
    ready: dict[str, Any] = _jsonable(results)
    return ready


def reading(difference: Mapping[str, Any]) -> str:
    """What a difference allows to say, in a few words."""
    if difference["shown"]:
        return f"{difference['b']} scores {'higher' if difference['mean'] > 0 else 'lower'}"
    if difference["low"] > 0 or difference["high"] < 0:
        return "the seeds disagree: no difference can be shown"
    return "no difference can be shown"


def shown_models(reproduction: Reproduction) -> list[str]:
    """Arms for pictures and examples of single models: the paper's and the joint one, then others; in their order."""
    preferred = [*reproduction.paper, *(arm for pair in ROLES["question"] for arm in pair)]
    order = [arm for arm in preferred if arm in reproduction.runs]
    chosen = list(dict.fromkeys([*order, *reproduction.runs]))[:MOST_MODELS]
    return [arm for arm in reproduction.runs if arm in chosen]


def _all(runs: Mapping[str, Mapping[int, Run]]) -> list[Run]:
    return [run for by_seed in runs.values() for run in by_seed.values()]


def _has(by_seed: Mapping[int, Run], what: str) -> bool:
    return any(getattr(run, what) for run in by_seed.values())


def _arm(reproduction: Reproduction, arm: str) -> dict[str, Any]:
    by_seed = reproduction.runs[arm]
    arguments = next(iter(by_seed.values())).metrics["arguments"]
    weighted = bool(arguments.get("weighted_sampling"))
    seconds = {seed: float(run.metrics.get("train_seconds") or 0) for seed, run in by_seed.items()}
    examples = {seed: float(run.metrics.get("train_examples") or 0) for seed, run in by_seed.items()}
    stage = {seed: float(run.triplet.get("seconds") or 0) for seed, run in by_seed.items() if run.triplet}
    return {
        "settings": reproduction.arms[arm],
        "note": reproduction.notes.get(arm, ""),
        "paper": reproduction.paper.get(arm, ""),
        "seeds": list(by_seed),
        "sampling": "even over labels" if weighted else "as the rows are",
        "answers": "as trained" if not weighted or not arguments.get("prior_correction") else "with the rows' shares",
        "train_examples": spread(examples),
        "train_seconds": spread(seconds),
        "triplet_seconds": spread(stage) if stage else None,
    }


def _paper_order(collector: Collector) -> list[dict[str, Any]]:
    """Whether our arms stand in the paper's order, per metric that the paper reports."""
    arms = {model: arm for arm, model in reversed(collector.reproduction.paper.items()) if arm in collector.runs}
    chain = [model for model in paper.SCORES if model in arms]
    if len(chain) < 2:
        return []
    result = []
    for name, task in collector.tasks.items():
        for metric in task.metrics:
            if not all(metric in paper.SCORES[model].get(name, {}) for model in chain):
                continue
            steps = [
                entry
                for a, b in pairwise(chain)
                for entry in collector.differences(arms[a], arms[b])
                if (entry["task"], entry["metric"]) == (name, metric)
            ]
            if len(steps) == len(chain) - 1:
                result.append(
                    {
                        "task": name,
                        "metric": metric,
                        "order": chain,
                        "arms": [arms[model] for model in chain],
                        "steps": steps,
                        "holds": all(step["mean"] > 0 for step in steps),
                        "shown": all(step["mean"] > 0 and step["shown"] for step in steps),
                    }
                )
    return result


def _jsonable(value: Any) -> Any:
    """Plain values; what JSON can't write becomes null, texts lose what can't be shown."""
    if isinstance(value, Mapping):
        return {plain(key): _jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return plain(value)
