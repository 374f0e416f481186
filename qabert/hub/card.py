"""The model card: README.md of a run's folder, made of nothing but what the run wrote there."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from qabert.data.demo import DEMO_NOTE
from qabert.errors import InputError
from qabert.files import whole_file
from qabert.hub.push import local_name, without_folders
from qabert.model_files import read_json
from qabert.tasks import PAPER_TASKS, Task
from qabert.training.arguments import RunArguments

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"
TEMPLATE = Path(__file__).with_name("card.md.jinja")
#: Where the encoders that come as a package are from.
_HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
_SENTENCES: dict[str, tuple[str, str | None]] = {
    "sst": ("I loved every minute of it.", None),
    "sts": ("A man plays a guitar.", "Someone makes music."),
    "quora": ("How do I learn to cook?", "What is the best way to learn cooking?"),
}
#: Keys of a run that say nothing about its result.
_UNTOLD = {"tasks", "output_dir", "resume", "overwrite", "cache", "push_to_hub", "hub_model_id", "hub_private_repo",
           "hub_strategy", "score_untrained", "logging_steps", "disable_tqdm", "report_to"}  # fmt: skip
#: The field's names on the hub of what ours calls by shorter ones.
_METRICS = {"pearson": "pearsonr", "spearman": "spearmanr", "macro_f1": "f1"}


def write_card(folder: Path, repo_id: str | None = None) -> Path:
    """Write a finished run's card into its folder.

    Args:
        folder: With the `config.json` and `metrics.json` that training wrote.
        repo_id: `owner/name` where the model will be on the hub; its examples name the folder otherwise.

    Returns:
        The card's path.

    Raises:
        InputError: One of these files is missing or can't be read.
    """
    text = card_text(folder, repo_id)
    with whole_file(folder / CARD) as file:
        file.write(text)
    return folder / CARD


def card_text(folder: Path, repo_id: str | None = None) -> str:
    """The card; see `write_card`."""
    from huggingface_hub import ModelCard

    where = f"run '{folder}'"
    config, metrics = (read_json(folder / name, where) for name in ("config.json", "metrics.json"))
    try:
        tasks = [Task.from_dict(values, where) for values in config["tasks"]]
        scored = [task for task in tasks if task.name in metrics["scores"]]  # the others an earlier run has trained
        arguments = without_folders(metrics["arguments"])
        name = repo_id or local_name(str(arguments["output_dir"]))
        data = str(arguments["data"] or "files of the tasks' own")
        known = {
            "name": name,
            "tasks": tasks,
            "scored": scored,
            "example": _example(tasks[0], config["input_format"]),
            "remote_code": bool(config.get("auto_map")),
            "config": config,
            "metrics": metrics,
            "arguments": arguments,
            "data": data,
            "recipe": recipe(arguments, scored),
            "own_tasks": not all(map(_is_papers, scored)),
            "limits": limits(config, metrics, arguments),
        }
        card = ModelCard.from_template(
            metadata(name.split("/")[-1], scored, metrics, arguments, data),
            template_str=TEMPLATE.read_text(encoding="utf-8"),
            cell=cell,
            json=lambda value: json.dumps(value, ensure_ascii=False),
            **known,
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{where}: config.json or metrics.json isn't what training writes: {error!r}") from error
    return str(card).rstrip() + "\n"


def metadata(name: str, tasks: list[Task], metrics: Any, arguments: Mapping[str, Any], data: str) -> ModelCardData:
    """The card's head, which the hub reads: what the model is, is based on and has reached."""
    from huggingface_hub import EvalResult, ModelCardData

    hub = {task.name: PAPER_TASKS[task.name].hub for task in tasks if data == "hub" and task.name in PAPER_TASKS}
    results = [
        EvalResult(
            task_type="sentence-similarity" if task.problem == "regression" and task.pair else "text-classification",
            task_name=task.name,
            dataset_type=str(hub.get(task.name, {}).get("path", task.name)),
            dataset_name=f"{task.name} ({data}, {metrics['data'][task.name]['dev']['used']:,} rows)",
            dataset_config=hub.get(task.name, {}).get("name"),
            dataset_split="dev",
            metric_type=_METRICS.get(metric, metric),
            metric_name=f"{task.name} {metric}",
            metric_value=round(metrics["scores"][task.name][metric], 4),
        )
        for task in tasks
        for metric in task.metrics
    ]
    return ModelCardData(
        language="en",
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["qabert", "multi-task", *(task.name for task in tasks)],
        base_model=_hub_name(str(metrics["arguments"]["encoder"])),
        datasets=sorted({str(place["path"]) for place in hub.values()}) or None,
        model_name=name,
        eval_results=results,
    )


def _hub_name(encoder: str) -> str | None:
    """The encoder's name on the hub, or None where it was a folder."""
    if encoder in _HUB_NAMES:
        return _HUB_NAMES[encoder]
    return encoder if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", encoder) and not os.path.exists(encoder) else None


def recipe(arguments: Mapping[str, Any], tasks: list[Task]) -> str:
    """The run's settings that aren't defaults, as a recipe."""
    defaults = RunArguments().to_dict()
    values = {key: arguments[key] for key in ("data", "encoder", "format") if arguments.get(key) is not None}
    for key, value in arguments.items():
        if key not in _UNTOLD and value is not None and (key not in defaults or _plain(value) != _plain(defaults[key])):
            values[key] = value
    if not all(map(_is_papers, tasks)):
        left_out = ("name", "output")
        values["tasks"] = {
            task.name: {}
            if _is_papers(task)
            else {
                key: value
                for key, value in task.to_dict().items()
                if key not in left_out and value not in ([], {}, False)
            }
            for task in tasks
        }
    elif [task.name for task in tasks] != list(PAPER_TASKS):
        values["tasks"] = ",".join(task.name for task in tasks)
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return text.strip()


def _is_papers(task: Task) -> bool:
    if task.name not in PAPER_TASKS:
        return False
    known = dataclasses.replace(PAPER_TASKS[task.name], ordered=task.ordered, symmetric=task.symmetric)
    return task.to_dict() == known.to_dict()  # older models don't say whether labels are ordered and pairs symmetric


def _plain(value: Any) -> Any:
    """A number that a flag left a text, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def limits(config: Mapping[str, Any], metrics: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """What a user should know before trusting the model."""
    lines = []
    if arguments["data"] == "demo":
        lines.append(f"{DEMO_NOTE} The model is a demonstration: don't decide anything by it.")
    if arguments.get("load_best_model_at_end") and str(arguments.get("eval_strategy")) not in ("no", "False"):
        lines.append(
            "Of the run's checkpoints the one with the best score on the dev rows was kept, so these rows "
            "aren't unseen: expect a little less on others."
        )
    if arguments["encoder"] == "minilm":
        lines.append(
            "The encoder, all-MiniLM-L6-v2, was itself trained on many public pairs, Quora's questions among them: "
            "scores on such pairs aren't those of an encoder that never saw them."
        )
    if kept := [task["name"] for task in config["tasks"] if task["name"] not in metrics["scores"]]:
        lines.append(
            f"{', '.join(kept)}: learnt before this run and not scored in it"
            + ("." if config.get("freeze_encoder") else "; the encoder has changed since.")
        )
    length = config["max_length"]
    lines.append(f"English sentences; inputs are cut at {length} tokens, question and special tokens included.")
    if config.get("priors"):
        lines.append(
            "Labels were drawn evenly in training, and answers are corrected for the label shares of the training "
            "rows: where labels are distributed otherwise, so should the correction be ('priors' in config.json)."
        )
    if config.get("both_orders"):
        lines.append(
            "Pairs of symmetric tasks are answered with the mean of both orders' logits by qabert; the code beside the "
            "weights answers the order that it is given."
        )
    if taught := arguments.get("teachers"):
        models = ", ".join(dict.fromkeys(model for models in taught.values() for model in models))
        lines.append(f"Of {', '.join(taught)} it also learnt the answers of {models}, mistakes included.")
    drifts = {name: facts["drift"]["text"] for name, facts in metrics["data"].items() if "drift" in facts}
    lines += [f"{name}: {text}." for name, text in drifts.items()]
    return lines + [f"{line[:1].upper()}{line[1:]}." for line in map(without_folders, metrics.get("warnings", []))]


def _example(task: Task, input_format: str) -> dict[str, Any]:
    """One row of a task: its sentences, and what the tokenizer is to be given for them."""
    text_a, text_b = _SENTENCES.get(task.name, (None, None))
    if text_a is None or (text_b is not None) != task.pair:
        text_a, text_b = ("This is a sentence.", "This is another one." if task.pair else None)
    given: list[Any] = [text_a] if text_b is None else [text_a, text_b]
    if input_format == "qa":
        context = task.context.replace("{text_a}", text_a).replace("{text_b}", text_b or "")
        given = [task.question, context.replace("{{", "{").replace("}}", "}")]
    elif input_format == "separate" and task.pair:
        given = [given]
    inputs = ", ".join(json.dumps(value, ensure_ascii=False) for value in given)
    padding = ", padding=True" if isinstance(given[0], list) else ""
    meaning = "a number" if task.range else f"probabilities of {', '.join(task.labels)}"
    if task.problem == "binary":
        meaning = f"the probability of {task.labels[1]}"
    return {
        "task": task.name,
        "text_a": text_a,
        "text_b": text_b,
        "tokenizer": f"{inputs}{padding}",
        "meaning": " ".join(meaning.split()),
    }


def cell(value: Any) -> str:
    """Text as a cell of a Markdown table shows it."""
    text = " ".join(str(value).split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`")):
        text = text.replace(character, entity)
    return text
