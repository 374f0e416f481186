"""Answer my sentence: a checkpoint, rows in, answers out, in the rows' order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qabert.answers import readable
from qabert.data.collator import DataCollator
from qabert.data.prompts import PromptEncoder
from qabert.data.sampling import longest_first
from qabert.errors import InputError, loading_problem, told, unknown
from qabert.model_config import declared_tasks, read_config
from qabert.model_files import check_folder, empty_model, local_folder, mismatched, tensor_shapes
from qabert.modeling import QABertModel
from qabert.processes import ALONE, Processes
from qabert.tasks import Task

#: Rows that are tokenised and sorted by length together; memory stays flat however many there are.
CHUNK = 4096
#: Tokens of an encoder call on a CPU: fewer leave its units idle between calls, more leave its caches.
CPU_TOKENS = 2048
#: What the encoder may compute in; the heads stay in float32.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Predictor:
    """A trained model that answers every one of its tasks.

    Example:
        >>> predictor = Predictor.from_pretrained("runs/demo")
        >>> [sorted(answer) for answer in predictor.predict("sst", [("A lovely film.", None)])]
        [['label', 'probabilities']]
    """

    def __init__(self, model: QABertModel, tokenizer: Any, processes: Processes = ALONE) -> None:
        self.processes = processes
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.tasks = declared_tasks(model.config)
        self.collator = DataCollator(tokenizer)

    @classmethod
    def from_pretrained(
        cls, path: str, device: str | None = None, processes: Processes = ALONE, dtype: str = "float32"
    ) -> Predictor:
        """Load a checkpoint.

        Nothing that it holds is run as code, and its sizes are checked before memory is taken (see `model_files`).

        Args:
            path: A folder that training wrote, or a hub name.
            device: `cpu`, `cuda`, …; None takes a GPU if there is one.
            processes: Those that share the rows; all of them have to ask for the same answers in the same order.
            dtype: A key of `DTYPES`, what the encoder computes in.  bfloat16 has 8 bits for a number's digits: answers
                change in the second or third of theirs.  It is faster on GPUs, and on CPUs that multiply it
                (AVX512-BF16, AMX), about twice; on other CPUs it is slower.

        Raises:
            InputError: There is no checkpoint of this package at that place, it is damaged, or no such device or dtype.
        """
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        if (Path(path) / "model.onnx").is_file() and not any(Path(path).glob("model*.safetensors*")):
            from qabert.onnx import OnnxPredictor

            return OnnxPredictor.from_pretrained(path, device, processes, dtype)
        from transformers import AutoTokenizer

        from qabert.checkpoints import verify

        config = read_config(path)
        chosen: Any = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if chosen == "cuda" and processes.count > 1:
            chosen = f"cuda:{processes.local_rank % max(torch.cuda.device_count(), 1)}"
        try:
            torch.zeros(1, device=chosen).cpu()
        except (RuntimeError, AssertionError) as error:  # no such device, or a torch built without it
            raise InputError(f"device '{chosen}' can't be used: {told(error)}") from None
        where = f"model '{path}'"
        part = "its files"
        try:
            folder = local_folder(path)
            check_folder(folder, where)
            verify(folder)
            shapes = tensor_shapes(folder, where)
            if any(".lora_" in name for name in shapes):
                raise InputError(f"{where} is a checkpoint with adapters; the run's folder holds the merged model")
            part = "its tokenizer"
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            if tokenizer.pad_token is None:
                raise ValueError("it has no padding token")
            tokenizer.pad(tokenizer(["a", "a b"]))  # its settings are read when it is used, not when it is loaded
            part = "its weights"
            if wrong := mismatched(empty_model(lambda: QABertModel(config), shapes, where), shapes):
                raise _misfit(where, "mismatched", wrong)
            loaded: Any = QABertModel.from_pretrained(
                folder, config=config, output_loading_info=True, use_safetensors=True
            )
            model, loading = loaded
            if dtype != "float32":
                part = f"its encoder in {dtype}"
                # Weights only: rotary frequencies and other constants would lose what positions are told by.
                for weights in model.encoder.parameters():
                    weights.data = weights.data.to(DTYPES[dtype])
            try_out(model, tokenizer)
        except InputError:
            raise
        except Exception as error:
            if (problem := loading_problem(error)) is None:
                raise
            raise InputError(f"{where}: {part} can't be loaded: {problem}") from None
        # What the file lacks would be drawn at random, and answer.
        for what in ("missing", "unexpected"):
            if wrong := sorted(loading[f"{what}_keys"]):
                raise _misfit(where, what, wrong)
        return cls(model.to(chosen), tokenizer, processes)

    @property
    def known_tokens(self) -> int:
        """Tokens that the encoder has embeddings of."""
        return int(self.model.get_input_embeddings().num_embeddings)

    def task(self, name: str) -> Task:
        """The declaration of one of the model's tasks.

        Raises:
            InputError: The model has no such task.
        """
        if name not in self.tasks:
            raise unknown("task", name, self.tasks, "this model")
        return self.tasks[name]

    def logits(self, task: str, rows: Iterable[tuple[str, str | None]], batch_size: int = 64) -> Iterator[np.ndarray]:
        """Logits of rows, in their order, in arrays `(rows of a chunk, outputs)`.

        An encoder call holds `batch_size` rows of the chunk's longest, or more shorter ones up to as many tokens; on a
        CPU at most `CPU_TOKENS` tokens, or one row.

        Several processes take a chunk each, round after round, and all of them get every chunk's logits: they are those
        of one process to the last bit, because a chunk's batches are the same.
        """
        return self._outputs("logits", task, rows, batch_size)

    def embed(self, task: str, rows: Iterable[tuple[str, str | None]], batch_size: int = 64) -> np.ndarray:
        """Sentence embeddings of rows as the task reads them, in their order.

        Returns:
            `(rows, segments × hidden)` in float32: what the task's head answers from.  A pair in the `separate` format
            has its two sentences' side by side, else a row has one.

        Raises:
            InputError: No such task, or a row with one sentence too few or too many, or an empty one.
        """
        declared = self.task(task)
        found = list(self._outputs("embedding", task, checked(declared, rows), batch_size))
        width = self.model.config.encoder_config().hidden_size * self.model.config.segments(declared.to_dict())
        return np.concatenate(found) if found else np.empty((0, width), dtype=np.float32)

    def _outputs(
        self, kind: str, task: str, rows: Iterable[tuple[str, str | None]], batch_size: int
    ) -> Iterator[np.ndarray]:
        declared = self.task(task)
        config = self.model.config
        # The mean of two embeddings in the `separate` format would be none of a pair: its halves are the sentences'.
        exchanged = (
            config.both_orders and declared.symmetric and (kind == "logits" or config.input_format != "separate")
        )
        encoders = [
            PromptEncoder(config.input_format, self.tokenizer, declared, config.max_length, order)
            for order in ((False, True) if exchanged else (False,))
        ]
        rows = iter(rows)
        chunks_left = iter(lambda: list(itertools.islice(rows, CHUNK)), [])
        while chunks := list(itertools.islice(chunks_left, self.processes.count)):
            own = chunks[self.processes.rank : self.processes.rank + 1]
            answer = partial(self._answer_chunks, kind, task, encoders, own, batch_size)
            yield from itertools.chain.from_iterable(self.processes.gather(answer))

    def _answer_chunks(
        self, kind: str, task: str, encoders: list[PromptEncoder], chunks: list[list[Any]], batch_size: int
    ) -> list[np.ndarray]:
        found = [[self._answer_chunk(kind, task, encoder, rows, batch_size) for encoder in encoders] for rows in chunks]
        return [sum(parts[1:], parts[0]) / len(parts) if len(parts) > 1 else parts[0] for parts in found]

    @torch.inference_mode()
    def _answer_chunk(
        self, kind: str, task: str, encoder: PromptEncoder, rows: list[Any], batch_size: int
    ) -> np.ndarray:
        features = encoder({"text_a": [a for a, _ in rows], "text_b": [b for _, b in rows]})
        known = self.known_tokens
        if any(max(ids) >= known for row in features["input_ids"] for ids in row):
            raise InputError(f"the tokenizer doesn't belong to this model, whose encoder knows {known} tokens only")
        segments = len(features["input_ids"][0])
        most = CPU_TOKENS // segments if self.model.device.type == "cpu" else None
        result: np.ndarray | None = None
        for chosen in calls(np.asarray(features["length"]), batch_size, most):
            batch = self.collator([{key: values[i] for key, values in features.items()} for i in chosen])
            inputs = {k: v.to(self.model.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            found = self.model(**inputs)[kind].float().cpu().numpy()
            if result is None:
                result = np.empty((len(rows), found.shape[1]), dtype=np.float32)
            result[chosen] = found
        assert result is not None  # a chunk has rows
        if not np.isfinite(result).all():
            raise InputError(f"task '{task}': the model answers NaN: training diverged, or its weights are damaged")
        return result

    def answers(self, task: str, rows: Iterable[tuple[str, str | None]], batch_size: int = 64) -> Iterator[np.ndarray]:
        """Probabilities or values of rows, in their order, chunk by chunk (see `modeling.losses.activate`)."""
        for logits in self.logits(task, rows, batch_size):
            yield self.model.answers(torch.from_numpy(logits), task).numpy()

    def predict(
        self, task: str, rows: Iterable[tuple[str, str | None]], batch_size: int = 64
    ) -> Iterator[dict[str, Any]]:
        """Answers as a person reads them, one dictionary per row.

        Returns:
            `label` and `probabilities` by label name; for a regression `value`, in the task's unit.

        Raises:
            InputError: No such task, or a row with one sentence too few or too many, or an empty one.
        """
        declared = self.task(task)
        for chunk in self.answers(task, checked(declared, rows), batch_size):
            yield from (readable(declared, answer) for answer in chunk)


def calls(lengths: np.ndarray, batch_size: int, most: int | None = None) -> Iterator[np.ndarray]:
    """Which rows are answered together: rows of like length, so that little is padding.

    Args:
        lengths: Tokens of each row, shape `(rows,)`.
        batch_size: Rows of a call that are as long as the longest row; of shorter ones a call takes more, up to as many
            tokens.
        most: Tokens of a call, if it has more than one row; None for no other limit.

    Yields:
        Row numbers, every row once, the longest first.

    Example:
        >>> [chosen.tolist() for chosen in calls(np.array([2, 8, 2, 4, 2]), batch_size=1)]
        [[1], [3, 0], [2, 4]]
    """
    order = longest_first(lengths)
    tokens = batch_size * int(lengths.max(initial=0))
    tokens = tokens if most is None else min(tokens, most)
    while len(order):
        count = max(tokens // int(lengths[order[0]]), 1)
        yield order[:count]
        order = order[count:]


@torch.inference_mode()
def try_out(model: QABertModel, tokenizer: Any) -> None:
    """Embed one short sentence: some settings of an encoder are read only when it computes.

    Raises:
        ValueError: It gives no embedding of the size that it claims.
    """
    training = model.training
    inputs = tokenizer("a", return_tensors="pt", return_token_type_ids=False)
    found = tuple(model.eval().embed(inputs["input_ids"], inputs["attention_mask"]).shape)
    model.train(training)
    if found != (wanted := (1, model.config.encoder_config().hidden_size)):
        raise ValueError(f"it makes embeddings of shape {found}; expected {wanted}")


def checked(task: Task, rows: Iterable[tuple[str, str | None]], first: int = 1) -> Iterator[tuple[str, str | None]]:
    """Rows as they are, if each has the sentences that the task takes; `first` is the first one's number in messages.

    Raises:
        InputError: A row has one sentence too few or too many, or an empty one.
    """
    for number, (text_a, text_b) in enumerate(rows, first):
        if (text_b is not None) != task.pair:
            given, wanted = ("two sentences", "one") if text_b is not None else ("one sentence", "two")
            raise InputError(f"row {number}: task '{task.name}' takes {wanted}, got {given}")
        for text in (text_a, text_b):
            if text is not None and not text.strip():
                raise InputError(f"row {number}: a sentence is empty")
        yield text_a, text_b


def _misfit(where: str, what: str, names: list[str]) -> InputError:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return InputError(f"{where}: config.json and model.safetensors don't fit: {len(names)} {what} weights: {shown}")
