"""`transformers.pipeline("qabert", model="runs/demo")`: a model's tasks behind the library's own interface.

`import qabert` registers it as soon as `transformers.pipelines` is imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from transformers import AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline

from qabert import inference
from qabert.errors import InputError, is_unicode, unknown
from qabert.inference import Predictor, checked
from qabert.model_files import FILES
from qabert.tasks import Task

#: Columns that a row may have, besides those that its task declares.
COLUMNS = (("text_a", "text_b"), ("text", "text_pair"))
PARAMETERS = ("task", "top_k", "embeddings", "batch_size")


class Checkpoint:
    """A model that was named and isn't loaded yet.

    `pipeline()` loads models itself, without this package's checks, and wraps every error in a traceback of its own.
    So what it "loads" is this, and `QABertPipeline` does the loading.
    """

    def __init__(self, name: str, dtype: str) -> None:
        self.name, self.dtype = name, dtype

    @classmethod
    def from_pretrained(
        cls, name: str, dtype: Any = "auto", revision: str | None = None, token: Any = None, **_: Any
    ) -> Checkpoint:
        """What `pipeline()` calls, with all that it was told about loading; a revision of the hub is fetched."""
        if revision is not None:
            from huggingface_hub import snapshot_download

            name = snapshot_download(name, revision=str(revision), token=token, allow_patterns=list(FILES))
        return cls(name, "float32" if dtype in ("auto", None) else str(dtype).removeprefix("torch."))


class QABertPipeline(Pipeline):
    """Answers of every task of a model, as `Predictor` gives them.

    Example:
        >>> from transformers import pipeline
        >>> pipe = pipeline("qabert", model="runs/demo", device="cpu")
        >>> sorted(pipe("A lovely film.", task="sst"))
        ['label', 'probabilities', 'score']
        >>> sorted(pipe(("A man plays a guitar.", "Someone makes music."), task="sts"))
        ['value']

    Args:
        model: A `QABertModel`; `pipeline()` also takes a folder that training wrote, or a hub name.
        tokenizer: Needed with a `QABertModel`; else the folder's own.
        device: As in every pipeline: the first accelerator if unset.
        **kwargs: Parameters of a call, as defaults for all calls.

    Raises:
        InputError: The model can't be used (see `Predictor.from_pretrained`), or its tokenizer is missing.
    """

    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    def __init__(self, model: Any, tokenizer: Any = None, device: Any = None, **kwargs: Any) -> None:
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
        if isinstance(model, Checkpoint):
            named = None if device is None or isinstance(device, int) else str(device)
            self.predictor = Predictor.from_pretrained(model.name, named or "cpu", dtype=model.dtype)
            if tokenizer is not None:
                self.predictor.tokenizer = self.predictor.collator.tokenizer = tokenizer
        elif tokenizer is None:
            raise InputError("a model without its tokenizer: give pipeline(…, tokenizer=…) too, or the model's folder")
        else:
            self.predictor = Predictor(model, tokenizer)
        kwargs["processor"] = kwargs["image_processor"] = kwargs["feature_extractor"] = None
        super().__init__(self.predictor.model, self.predictor.tokenizer, device=device, **kwargs)

    def __call__(self, inputs: Any, **parameters: Any) -> Any:  # type: ignore[override]
        """Answer one row, or many.

        Args:
            inputs: A row: a sentence, the two of a pair as a tuple, or a mapping with `text_a` and `text_b`, `text` and
                `text_pair`, or the task's own column names.  Or a list of rows; or any other iterable of them, such as
                a generator, a `datasets.Dataset` or transformers' `KeyDataset`, which is read as it is answered.
            **parameters: `task`: a task of the model, which may be left out where there is one; `top_k`: the likeliest
                labels, in a list (None: all); `embeddings`: sentence embeddings instead of answers; `batch_size`: rows
                per encoder call [64].

        Returns:
            For a row `label`, `score` and `probabilities`; of a regression `value`, in the task's unit; with `top_k` a
            list of `label` and `score`; with `embeddings` an array `(segments × hidden,)`.  For a list a list, for
            other iterables an iterator.

        Raises:
            InputError: No such task or parameter, or a row that isn't one of the task, by its number.
        """
        steps = (self._preprocess_params, self._forward_params, self._postprocess_params)
        given = [{**own, **new} for own, new in zip(steps, self._sanitize_parameters(**parameters), strict=True)]
        chosen = self._task(given[0].get("task"))
        given[0] = {"task": chosen}
        if "top_k" in given[2] and (given[1].get("embeddings") or not chosen.labels):
            raise InputError(f"top_k is for labels; task '{chosen.name}' was asked for none")
        if isinstance(inputs, str | tuple | Mapping):
            return self.run_single([inputs], *given)[0]
        if not isinstance(inputs, Iterable) and hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            inputs = map(inputs.__getitem__, range(len(inputs)))  # torch's datasets, which needn't iterate
        if not isinstance(inputs, Iterable):
            raise InputError(f"expected a row, a list of rows or an iterable of them; got {type(inputs).__name__}")
        # A list is there already: its chunks are the Predictor's.  From a stream the first answers come early.
        sizes: Iterable[int] = itertools.repeat(inference.CHUNK)
        if not isinstance(inputs, list):
            sizes = (min(64 * 2**n, inference.CHUNK) for n in itertools.count())
        answers = self._answers(iter(inputs), sizes, given)
        return list(answers) if isinstance(inputs, list) else answers

    def _answers(self, values: Iterator[Any], sizes: Iterable[int], given: list[dict[str, Any]]) -> Iterator[Any]:
        first = 1
        for size in sizes:
            chunk = list(itertools.islice(values, size))
            if not chunk:
                return
            yield from self.run_single(chunk, given[0] | {"first": first}, *given[1:])
            first += len(chunk)

    def _task(self, name: str | None) -> Task:
        if name is None and len(self.predictor.tasks) == 1:
            (name,) = self.predictor.tasks
        if name is None:
            raise InputError(f"this model has several tasks; name one with task=…: {', '.join(self.predictor.tasks)}")
        return self.predictor.task(name)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for key in parameters:
            if key not in PARAMETERS:
                raise unknown("parameter", key, PARAMETERS, "pipeline")
        for key in ("top_k", "batch_size"):
            value = parameters.get(key, 1)
            if (key, value) != ("top_k", None) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"pipeline: {key} is {value!r}; expected a whole number over 0")
        used = [{key: parameters[key] for key in keys if key in parameters} for keys in (
            ("task",), ("embeddings", "batch_size"), ("top_k",),
        )]  # fmt: skip
        return used[0], used[1], used[2]

    def preprocess(self, input_: list[Any], task: Task, first: int = 1) -> dict[str, Any]:  # type: ignore[override]
        """Rows, checked, of what was given; `first` is the first one's number."""
        rows = (_row(task, value, number) for number, value in enumerate(input_, first))
        return {"task": task, "rows": list(checked(task, rows, first))}

    def _forward(  # type: ignore[override]
        self, input_tensors: dict[str, Any], embeddings: bool = False, batch_size: int | None = None
    ) -> dict[str, Any]:
        task, rows, size = input_tensors["task"], input_tensors["rows"], batch_size or self._batch_size or 64
        if embeddings:
            return {"embeddings": self.predictor.embed(task.name, rows, size)}
        return {"task": task, "answers": np.concatenate(list(self.predictor.answers(task.name, rows, size)))}

    def postprocess(self, model_outputs: dict[str, Any], **parameters: Any) -> list[Any]:  # type: ignore[override]
        """A chunk's answers, one a row."""
        if "embeddings" in model_outputs:
            return list(model_outputs["embeddings"])
        return [_answer(model_outputs["task"], answer, **parameters) for answer in model_outputs["answers"]]


def _row(task: Task, value: Any, number: int) -> tuple[str, str | None]:
    texts: Any = value
    if isinstance(value, str):
        texts = (value,)
    elif isinstance(value, Mapping):
        own = (task.columns["text_a"], task.columns.get("text_b", ""))
        keys = next((keys for keys in (*COLUMNS, own) if keys[0] in value), None)
        if keys is None:
            wanted = f"'text_a', 'text' or '{own[0]}'"
            raise InputError(f"row {number}: expected a column {wanted}; got {', '.join(map(repr, value)) or 'none'}")
        texts = [value[keys[0]]] + ([value[keys[1]]] if value.get(keys[1]) is not None else [])
    if not isinstance(texts, tuple | list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"row {number}: expected a sentence, a pair or a mapping of columns; got {value!r:.80}")
    if not 1 <= len(texts) <= 2:
        raise InputError(f"row {number}: expected one sentence or two; got {len(texts)}")
    if not all(map(is_unicode, texts)):
        raise InputError(f"row {number}: a sentence is not Unicode text")
    return texts[0], texts[1] if len(texts) == 2 else None


def _answer(task: Task, answer: Any, **top: Any) -> Any:
    if task.range is not None:
        return {"value": float(answer)}
    shares = answer.tolist() if task.problem == "classification" else [1 - float(answer), float(answer)]
    probabilities = dict(zip(task.labels, shares, strict=True))
    # The first of equals, as `answers.decide` takes it: sorting is stable.
    ranked = [
        {"label": name, "score": probabilities[name]} for name in sorted(task.labels, key=lambda n: -probabilities[n])
    ]
    return ranked[: top["top_k"]] if "top_k" in top else ranked[0] | {"probabilities": probabilities}


PIPELINE_REGISTRY.register_pipeline("qabert", QABertPipeline, pt_model=Checkpoint, type="text")
# Or save_pretrained would put this file into the model's folder, as code to run.
delattr(QABertPipeline, "_registered_impl")
