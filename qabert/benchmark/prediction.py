"""Answer the same sentences with each package.  Each function runs in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qabert.benchmark.meters import Meter, Stopwatch, autocast, device
from qabert.benchmark.rows import CLASSIFIER, QABERT

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
#: Answers rows; the encoder that does.
Predictor = tuple[Callable[[Rows], Any], torch.nn.Module]


def predict(spec: Spec, rows: Rows) -> dict[str, Any]:
    """Load a model, answer one row (the start-up), then time the others' answers.

    Raises:
        RuntimeError: It saw another number of rows than it was given.
    """
    answer, encoder = PREDICTION[spec["contender"]](spec, rows)
    meter, watch = Meter(encoder), Stopwatch()
    if spec["contender"] == "pipeline-1":
        rows = rows[: -(-len(rows) // 10)]
    with autocast(spec["bf16"]):
        answer(rows[:1])
        seconds = time.time() - spec["started"]
        meter.reset()
        watch.start()
        answer(rows)
        used = watch.stop()
    if meter.rows != len(rows):
        raise RuntimeError(f"it answered {meter.rows} rows; asked were {len(rows)}")
    return {"seconds_to_first_answer": seconds, **used, **meter.rates(used["seconds"])}


def limit_predictor(spec: Spec, rows: Rows) -> Predictor:
    """Batches of like length, made before the clock starts."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from qabert.benchmark.training import bucketed

    path = Path(spec["work"]) / CLASSIFIER
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(
        path, dtype=torch.float32, attn_implementation=spec["attn_implementation"]
    )
    model.to(device()).eval()
    batches = {count: bucketed(rows[:count], tokenizer, spec["batch_size"]) for count in (1, len(rows))}

    def answer(rows: Rows) -> None:
        with torch.inference_mode():
            for _, inputs, _ in batches[len(rows)]:
                model(**inputs).logits.softmax(-1).cpu()

    return answer, model.base_model


def qabert_predictor(spec: Spec, rows: Rows) -> Predictor:
    """`Predictor.predict` on raw sentences."""
    from qabert.inference import Predictor as QABertPredictor

    predictor = QABertPredictor.from_pretrained(str(Path(spec["work"]) / QABERT))
    if spec["attn_implementation"]:
        predictor.model.encoder.set_attn_implementation(spec["attn_implementation"])

    def answer(rows: Rows) -> list[Any]:
        return list(predictor.predict("sst", ((row["text"], None) for row in rows), spec["batch_size"]))

    return answer, predictor.model.encoder


def pipeline_predictor(spec: Spec, rows: Rows) -> Predictor:
    """The pipeline of transformers on question and sentence."""
    from transformers import pipeline

    batch_size = {} if spec["contender"] == "pipeline-1" else {"batch_size": spec["batch_size"]}
    settings = {"attn_implementation": spec["attn_implementation"]} if spec["attn_implementation"] else {}
    path = str(Path(spec["work"]) / CLASSIFIER)
    pipe: Any = pipeline(
        "text-classification", path, dtype=torch.float32, device=device(), model_kwargs=settings, **batch_size
    )

    def answer(rows: Rows) -> Any:
        texts = [{"text": row["first"], "text_pair": row["second"]} for row in rows]
        return pipe(texts, top_k=None, truncation=True, max_length=spec["max_length"])

    return answer, pipe.model.base_model


def cross_encoder_predictor(spec: Spec, rows: Rows) -> Predictor:
    """`CrossEncoder.predict` on question and sentence."""
    from qabert.benchmark.peers import cross_encoder

    model = cross_encoder(spec, CLASSIFIER)

    def answer(rows: Rows) -> Any:
        texts = [(row["first"], row["second"]) for row in rows]
        return model.predict(texts, batch_size=spec["batch_size"], show_progress_bar=False, apply_softmax=True)

    return answer, model[0].model.base_model


PREDICTION: dict[str, Callable[[Spec, Rows], Predictor]] = {
    "limit": limit_predictor,
    "qabert": qabert_predictor,
    "sentence-transformers": cross_encoder_predictor,
    "pipeline": pipeline_predictor,
    "pipeline-1": pipeline_predictor,
}
