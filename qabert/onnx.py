"""Answers of an exported ONNX model: those of `Predictor`, without a torch model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qabert.errors import InputError, loading_problem
from qabert.inference import Predictor
from qabert.model_config import read_config
from qabert.model_files import check_folder
from qabert.modeling import QABertConfig, QABertModel
from qabert.processes import ALONE, Processes

FILE = "model.onnx"


def open_session(path: Path) -> Any:
    """ONNX Runtime's session of a file, with as many threads as torch uses.

    Raises:
        InputError: onnxruntime isn't installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError("an ONNX model needs onnxruntime, which isn't installed: pip install 'qabert[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """A graph that `qabert.export` wrote, called as a `QABertModel` is.

    Args:
        session: Of the graph.
        config: The model's configuration.
    """

    device = torch.device("cpu")
    answers = QABertModel.answers  # it takes nothing but the configuration

    def __init__(self, session: Any, config: QABertConfig) -> None:
        self.session, self.config = session, config
        self.inputs = [one.name for one in session.get_inputs()]

    def __call__(self, task: str, **inputs: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """`logits` and `embedding` of a batch, as `QABertModel.forward` gives them."""
        given = {key: inputs[key].numpy() for key in self.inputs}
        logits, embedding = map(torch.from_numpy, self.session.run([f"logits_{task}", "sentence_embedding"], given))
        segments = self.config.segments(self.config.task(task))
        return {
            "logits": logits[: len(logits) // segments],
            "embedding": torch.cat(embedding.chunk(segments), dim=-1) if segments > 1 else embedding,
        }

    def eval(self) -> OnnxModel:
        """Itself: a graph doesn't train."""
        return self

    @property
    def encoder(self) -> Any:
        """A graph has no layers to look into."""
        raise InputError("this is an exported model, which only answers; ask the one that it was made of")


class OnnxPredictor(Predictor):
    """A `Predictor` of a folder that `qabert export` wrote."""

    @property
    def known_tokens(self) -> int:
        """Tokens that the encoder has embeddings of."""
        return int(self.model.config.encoder_config().vocab_size)

    @classmethod
    def from_pretrained(
        cls, path: str, device: str | None = None, processes: Processes = ALONE, dtype: str = "float32"
    ) -> OnnxPredictor:
        """Load an exported model.

        Args:
            path: The folder.
            device: `cpu` or None.
            processes: As in `Predictor.from_pretrained`.
            dtype: `float32`, what the graph computes in.

        Raises:
            InputError: There is no such model, it is damaged, or it is asked for what a graph can't do.
        """
        if device not in (None, "cpu") or dtype != "float32":
            raise InputError(f"model '{path}' is an exported one: it computes in float32 on the CPU")
        from transformers import AutoTokenizer

        from qabert.checkpoints import verify

        config, folder = read_config(path), Path(path)
        part = "its files"
        try:
            check_folder(folder, f"model '{path}'")
            verify(folder)
            part = "its tokenizer"
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            part = FILE
            model: Any = OnnxModel(open_session(folder / FILE), config)
            outputs = {one.name for one in model.session.get_outputs()}
            if missing := {f"logits_{task['name']}" for task in config.tasks or []} - outputs:
                raise ValueError(f"it has no output {', '.join(sorted(missing))}")
        except InputError:
            raise
        except Exception as error:
            problem = loading_problem(error)
            if problem is None and not type(error).__module__.startswith("onnxruntime"):
                raise
            raise InputError(f"model '{path}': {part} can't be loaded: {problem or error}") from None
        return cls(model, tokenizer, processes)
