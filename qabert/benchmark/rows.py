"""The same rows, texts and weights for every contender, written before the first of them starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qabert.errors import InputError
from qabert.tasks import PAPER_TASKS, Task

SEED = 7
#: Folders of the models that prediction (5 outputs, as SST has) and the peers' training (1 output) begin with.
QABERT, CLASSIFIER, REGRESSOR = "qabert", "classifier", "regressor"


def shares(rows: int, batch_size: int) -> dict[str, int]:
    """Rows of each task: whole batches, so that every way to cut rows into batches makes as many steps.

    Example:
        >>> shares(640, 32)
        {'sst': 224, 'sts': 224, 'quora': 192}
    """
    batches = max(rows // batch_size, len(PAPER_TASKS))
    share, rest = divmod(batches, len(PAPER_TASKS))
    return {name: (share + (number < rest)) * batch_size for number, name in enumerate(PAPER_TASKS)}


def prepare(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write rows and models into `folder`.

    `pairs.json` holds rows as pairs of texts (see `_pair`) for `train`, `dev` and `predict`; `<task>-<split>.jsonl` the
    same training and dev rows as this package reads them.

    Args:
        settings: The command's values: `data`, `encoder`, `rows`, `predict_rows`, `batch_size`, `max_length`.
        folder: Where to.

    Returns:
        What the contenders are told beside the settings: `encoder`, `work` (the folder), `tasks` (declared for those
        files), and the rows of each part: `train_rows`, `dev_rows`, `predict_rows`, and `steps`.

    Raises:
        InputError: The encoder or the rows can't be had, or there are too few rows that fit into `max_length`.
    """
    from qabert.data.sources import load_data
    from qabert.training.encoders import find_encoder, load_tokenizer

    encoder = find_encoder(settings["encoder"])
    tokenizer = load_tokenizer(encoder, settings["max_length"])
    data = load_data(PAPER_TASKS, settings["data"])
    wanted = shares(settings["rows"], settings["batch_size"])
    folder.mkdir(parents=True, exist_ok=True)
    pairs: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "predict": []}
    for name, task in PAPER_TASKS.items():
        for split in ("train", "dev"):
            rows = fitting(task, data[name].splits[split], tokenizer, settings["max_length"], wanted[name])
            if split == "train" and len(rows) < wanted[name]:
                raise InputError(
                    f"task '{name}': {len(rows)} training rows fit into {settings['max_length']} tokens, "
                    f"{wanted[name]} are needed; lower --rows or --batch_size"
                )
            with (folder / f"{name}-{split}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            pairs[split] += [_pair(task, row) for row in rows]
    sst = PAPER_TASKS["sst"]
    for split in ("dev", "train"):
        left = settings["predict_rows"] - len(pairs["predict"])
        rows = fitting(sst, data["sst"].splits[split], tokenizer, settings["max_length"], left)
        pairs["predict"] += [_pair(sst, row) for row in rows]
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    _write_models(encoder, tokenizer, settings["max_length"], folder)
    counts = {f"{part}_rows": len(rows) for part, rows in pairs.items()}
    steps = len(pairs["train"]) // settings["batch_size"]
    return {"encoder": encoder, "work": str(folder), "tasks": _declared(), "steps": steps, **counts}


def fitting(task: Task, rows: Any, tokenizer: Any, max_length: int, count: int) -> list[dict[str, Any]]:
    """Up to `count` rows, drawn at random, that nobody has to shorten: packages shorten in ways of their own."""
    from qabert.data.prompts import PromptEncoder

    encode = PromptEncoder("qa", tokenizer, task, max_length)
    order = np.random.default_rng(SEED).permutation(len(rows))
    kept: list[dict[str, Any]] = []
    while len(kept) < count and len(order):
        candidates, order = rows.select(order[: count + 100]), order[count + 100 :]
        cut = encode(candidates[:])["truncated"]
        kept += [row for row, short in zip(candidates, cut, strict=True) if not short]
    return kept[: max(count, 0)]


def _pair(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """`first` and `second` text (the question and its context), `task`, `label`, `scaled` (the label, from 0 to 1)."""
    from qabert.data.prompts import qa

    ((first, second),) = qa(task, row["text_a"], row["text_b"])
    low, high = task.range or (0, max(len(task.labels) - 1, 1))
    scaled = (row["label"] - low) / (high - low)
    return {"task": task.name, "first": first, "second": second, "label": row["label"], "scaled": scaled} | {
        "text": row["text_a"]
    }


def _declared() -> dict[str, Any]:
    """The paper's tasks, with the files that `prepare` writes."""
    return {
        name: {
            "columns": {key: key for key in (*task.columns, "id")},
            "files": {split: f"{name}-{split}.jsonl" for split in ("train", "dev")},
        }
        for name, task in PAPER_TASKS.items()
    }


def _write_models(encoder: str, tokenizer: Any, max_length: int, folder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    from qabert.modeling import QABertModel

    disable_progress_bar()
    torch.manual_seed(SEED)
    own = QABertModel.from_encoder(
        encoder,
        tasks=[task.to_dict() for task in PAPER_TASKS.values()],
        input_format="qa",
        max_length=max_length,
        head_blocks=0,
    )
    own.save_pretrained(folder / QABERT)
    tokenizer.save_pretrained(folder / QABERT)
    for name, outputs in ((CLASSIFIER, PAPER_TASKS["sst"].num_outputs), (REGRESSOR, 1)):
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder, num_labels=outputs, dtype=torch.float32, trust_remote_code=False
        )
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
