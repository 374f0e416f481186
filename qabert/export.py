"""A model as one graph, for programs without this package: ONNX, or torch's own `.pt2`.

The graph holds the encoder and the heads of all tasks.  Its inputs are the tokenizer's (`input_ids`, `attention_mask`,
and `token_type_ids` where it makes them), all `(rows, tokens)`, both of any size; its outputs `sentence_embedding`
`(rows, hidden)` and for each task `logits_TASK` `(rows, outputs)`.  In the `separate` format the two sentences of a
pair are rows of one call, all first ones before all second ones: a pair task's logits are then the first half of the
rows'.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qabert.checkpoints import whole_folder
from qabert.errors import InputError, RunError, unknown
from qabert.files import check_new_folder
from qabert.inference import Predictor
from qabert.modeling import QABertModel
from qabert.modeling.linear import FastLinear
from qabert.modeling.modeling_qabert import sentence_embeddings

#: Each format's file, and the packages that write it.
FORMATS = {"onnx": ("model.onnx", ("onnx", "onnxruntime", "onnxscript")), "torch": ("model.pt2", ())}
#: Rows and tokens of the calls in which the graph is compared with the model.
CALLS = ((1, 3), (1, 17), (2, 8), (3, 40), (8, 24), (32, 5))
#: How near its numbers have to be.
ATOL, RTOL = 1e-5, 1e-4
OPSET = 20

Tensors = tuple[torch.Tensor, ...]


class Graph(nn.Module):
    """What is exported: a model's encoder, computed by plain layers, and its heads."""

    def __init__(self, model: QABertModel) -> None:
        super().__init__()
        self.config = model.config
        self.encoder: Any = copy.deepcopy(model.encoder)
        self.heads = model.heads
        for layer in self.encoder.modules():
            if type(layer) is FastLinear:
                layer.__class__ = nn.Linear  # type: ignore[assignment]
        # torch's own attention where the encoder has it; its draws of dropout never come to pass in a graph of answers.
        self.encoder.set_attn_implementation("sdpa" if self.encoder._supports_sdpa else "eager")
        self.eval().requires_grad_(False)

    def names(self) -> list[str]:
        """Names of the outputs."""
        return ["sentence_embedding", *(f"logits_{task['name']}" for task in self.config.tasks or [])]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> Tensors:
        """The embeddings, then every task's logits, each with as many rows as the inputs."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        embedding = sentence_embeddings(self.encoder, inputs, self.config.pooling).float()
        tasks = self.config.tasks or []
        wide = embedding
        if any(self.config.segments(task) == 2 for task in tasks):
            # A pair's second sentence stands half the rows further on.  As many rows as before, and the half computed
            # from tensors: torch would take shapes of half the rows for something that holds for some calls only.
            ones = torch.ones_like(input_ids[:, 0])
            rows = ones.sum()
            wide = torch.cat([embedding, embedding[(ones.cumsum(0) - 1 + rows // 2) % rows]], dim=-1)
        heads = [
            self.heads[f"head_{task['name']}"](wide if self.config.segments(task) == 2 else embedding) for task in tasks
        ]
        return embedding, *heads


def export(model: str, output: Path, form: str = "onnx", tasks: Sequence[str] | None = None) -> float:
    """Write a folder with a model's graph, its tokenizer, and its `config.json`, which has the tasks.

    The graph is run on calls of several sizes and compared with the model before anything has its name.

    Args:
        model: A folder that training wrote, or a hub name.
        output: The folder; must not exist, or be empty.
        form: A key of `FORMATS`.
        tasks: Some of the model's tasks; None for all.

    Returns:
        The largest difference between the graph's numbers and the model's.

    Raises:
        InputError: The model can't be had or has no such task, a package is missing, or there is such a folder.
        RunError: torch can't make a graph of this encoder, or the graph computes something else.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    check_new_folder(output)
    file, packages = FORMATS[form]
    for package in packages:
        if find_spec(package) is None:
            raise InputError(f"exporting ONNX needs {package}, which isn't installed: pip install 'qabert[onnx]'")
    predictor = Predictor.from_pretrained(model, "cpu")
    if not isinstance(predictor.model, QABertModel):
        raise InputError(f"model '{model}' is an exported one; export the model that it was made of")
    for name in tasks or ():
        predictor.task(name)
    own = predictor.model
    if tasks:
        own.config.tasks = [task for task in own.config.tasks or [] if task["name"] in tasks]
        own.config.priors = {name: prior for name, prior in (own.config.priors or {}).items() if name in tasks} or None
    graph = Graph(own)
    kinds = [key for key in ("token_type_ids",) if key in predictor.tokenizer("a")]
    with _quiet():
        program = _program(graph, own, kinds)
        with whole_folder(output) as part:
            if form == "onnx":
                _write_onnx(program, graph, part / file, kinds)
                from qabert.onnx import open_session

                session = open_session(part / file)
                names = ["input_ids", "attention_mask", *kinds]

                def compute(inputs: Tensors) -> list[np.ndarray]:
                    found: Any = session.run(None, dict(zip(names, (one.numpy() for one in inputs), strict=True)))
                    return list(found)
            else:
                torch.export.save(program, part / file)
                module: Any = torch.export.load(part / file).module()

                def compute(inputs: Tensors) -> list[np.ndarray]:
                    return [values.numpy() for values in module(*inputs)]

            worst = compare(own, compute, kinds)
            settings = json.loads(own.config.to_json_string())
            settings.pop("auto_map", None)  # there is no model here for the model's code
            (part / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
            predictor.tokenizer.save_pretrained(part)
    return worst


def _inputs(model: QABertModel, rows: int, tokens: int, kinds: list[str]) -> Tensors:
    """Random tokens, with padding behind those of all rows but one; the same in every call."""
    generator = torch.Generator().manual_seed(rows * 1000 + tokens)
    known = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    ids = torch.randint(known, (rows, tokens), generator=generator)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    lengths[0] = tokens
    mask = (torch.arange(tokens) < lengths).long()
    pad = model.config.encoder_config().pad_token_id or 0
    ids = torch.where((mask == 0) | (ids == pad), torch.where(mask == 0, pad, (pad + 1) % known), ids)
    return ids, mask, *(torch.zeros_like(ids) for _ in kinds)


def _program(graph: Graph, model: QABertModel, kinds: list[str]) -> Any:
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens", max=model.config.max_length)
    inputs = _inputs(model, 4, 9, kinds)
    try:
        with torch.no_grad():
            return torch.export.export(graph, inputs, dynamic_shapes=tuple({0: rows, 1: tokens} for _ in inputs))
    except Exception as error:  # theirs: whatever tracing an encoder's code meets
        raise RunError(
            f"torch can't make a graph of a {model.config.encoder_config().model_type} encoder for any number of rows "
            f"and tokens: {next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error


def _write_onnx(program: Any, graph: Graph, path: Path, kinds: list[str]) -> None:
    names = ["input_ids", "attention_mask", *kinds]
    try:
        made = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=names, output_names=graph.names(), verbose=False
        )
    except Exception as error:  # theirs, likewise
        raise RunError(
            f"ONNX has no words for this encoder: {next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error
    assert made is not None  # with `dynamo` and no path it is returned
    made.save(path, external_data=False)


@torch.no_grad()
def compare(model: QABertModel, compute: Callable[[Tensors], list[np.ndarray]], kinds: list[str]) -> float:
    """The largest difference between a graph's numbers and the model's, in calls of several sizes.

    Raises:
        RunError: It is too large.
    """
    worst = 0.0
    for rows, tokens in CALLS:
        inputs = _inputs(model, rows, min(tokens, model.config.max_length), kinds)
        given: dict[str, Any] = dict(zip(("input_ids", "attention_mask", *kinds), inputs, strict=True))
        found = compute(inputs)
        wanted = [("sentence_embedding", model.embed(**given), found[0])]
        for task, logits in zip(model.config.tasks or [], found[1:], strict=True):
            segments = model.config.segments(task)
            if rows % segments == 0:
                name = task["name"]
                wanted.append((f"logits_{name}", model(**given, task=name).logits, logits[: rows // segments]))
        for name, value, other in wanted:
            theirs = torch.as_tensor(other)
            if value.shape != theirs.shape or not torch.allclose(value.float(), theirs, rtol=RTOL, atol=ATOL):
                raise RunError(f"the graph's {name} for {rows} rows of {tokens} tokens isn't the model's: not written")
            worst = max(worst, float((value - theirs).abs().max()))
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says about packages and deprecations of its own."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
