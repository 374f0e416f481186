"""What a search found: its trials as a table, figures, and a recipe of the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from qabert.errors import RunError
from qabert.files import csv_writer, whole_file
from qabert.tables import table
from qabert.training.sweeps import Sweep, shown, unpacked

if TYPE_CHECKING:
    import optuna

TRIALS, BEST = "trials.csv", "best.yaml"


def is_done(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial ended by itself: well, pruned, or with an error of its own."""
    return "trial" in trial.user_attrs and (
        trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and "error" in trial.user_attrs)
    )


def trial_lines(study: optuna.Study) -> list[dict[str, Any]]:
    """The trials that are done, in their order: number, state, score, values, scores by task, steps, seconds, error."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    lines = []
    for trial in study.trials:
        if not is_done(trial):
            continue
        last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
        lines.append({
            "trial": trial.user_attrs["trial"],
            "state": states[trial.state.name],
            "score": trial.value if trial.state.name == "COMPLETE" else last,
            "values": {key: unpacked(value) for key, value in trial.params.items()},
            "scores": trial.user_attrs.get("scores", {}),
            "steps": trial.user_attrs.get("steps"),
            "evaluations": len(trial.intermediate_values),
            "seconds": trial.user_attrs.get("seconds"),
            "error": trial.user_attrs.get("error"),
        })  # fmt: skip
    return sorted(lines, key=lambda line: line["trial"])


def write_trials(sweep: Sweep, study: optuna.Study, output: Path) -> list[Path]:
    """Write a line for each trial that is done."""
    lines = trial_lines(study)
    metrics = list(
        dict.fromkeys((task, name) for line in lines for task, own in line["scores"].items() for name in own)
    )
    with whole_file(output / TRIALS) as file:
        writer = csv_writer(file)
        heads = ["trial", "state", "score", *sweep.space, *(f"{task}_{name}" for task, name in metrics)]
        writer.writerow([*heads, "evaluations", "steps", "seconds", "error"])
        for line in lines:
            values = [line["values"].get(key) for key in sweep.space]
            scores = [line["scores"].get(task, {}).get(name) for task, name in metrics]
            first = [line["trial"], line["state"], line["score"], *values, *scores]
            writer.writerow([*first, line["evaluations"], line["steps"], line["seconds"], line["error"]])
    return [output / TRIALS]


def write_results(sweep: Sweep, study: optuna.Study, output: Path) -> list[Path]:
    """Figures, the best recipe, and the table on the screen."""
    from qabert.evaluation.figures import sweeps as figures
    from qabert.evaluation.figures.style import save_figure

    lines = trial_lines(study)
    complete = sorted((line for line in lines if line["state"] == "complete"), key=lambda line: -line["score"])
    if not complete:
        errors = [line["error"] for line in lines if line["error"]]
        raise RunError(f"no trial came to its end: {errors[0] if errors else 'all were pruned'}")
    drawn = {
        "history": figures.search_history_figure(lines),
        "space": figures.search_space_figure(lines, sweep.space),
        "parallel": figures.parallel_figure(lines, sweep.space),
        "importance": figures.importance_figure(_importances(sweep, study)),
    }
    paths = [path for name, figure in drawn.items() for path in save_figure(figure, output / "figures", name)]
    best = complete[0]
    keys = sweep.keys(best["values"]) | {"output_dir": str(output / "best")}
    with whole_file(output / BEST) as file:
        file.write(f"# Trial {best['trial']} of {sweep.number}, the best: score {best['score']:.4f}.\n")
        yaml.safe_dump(keys, file, sort_keys=False, allow_unicode=True)
    print("\n" + _best_table(sweep, complete[:10]))
    counts = {state: sum(line["state"] == state for line in lines) for state in ("complete", "pruned", "failed")}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    print(f"train the best: python scripts/train.py {output / BEST}")
    return [*paths, output / BEST]


def _best_table(sweep: Sweep, lines: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [str(line["trial"]), f"{line['score']:.4f}",
         *(shown({"": line["values"][key]}).strip() for key in sweep.space), f"{line['seconds'] / 60:.1f}"]
        for line in lines
    ]  # fmt: skip
    return table(["trial", "score", *sweep.space, "minutes"], rows)


def _importances(sweep: Sweep, study: optuna.Study) -> dict[str, float]:
    """By key, the share of the scores' variance; empty where the trials can't tell."""
    import optuna

    scores = {trial.value for trial in study.trials if trial.state.name == "COMPLETE"}
    if len(scores) < 4:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=sweep.seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
