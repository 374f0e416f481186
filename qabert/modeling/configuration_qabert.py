"""The configuration of a `QABertModel`: its encoder, its tasks, its input format, its heads."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig


class QABertConfig(PreTrainedConfig):
    """Everything a checkpoint has to know in order to answer: no other file is needed to predict.

    Args:
        encoder: The encoder's own configuration as a dictionary (`BertConfig(...).to_dict()`).
        tasks: One dictionary per task, as `qabert.tasks.Task.to_dict` writes it, in the order of training.
        input_format: `separate`, `joint` or `qa`.
        max_length: Longest input in tokens; longer ones are truncated.
        head_blocks: Linear → LayerNorm → Dropout → ReLU blocks before a head's last projection (paper, section 4.1: 4).
        head_width: Width of those blocks; None means the encoder's hidden size.
        head_dropout: Dropout inside the heads (paper: 0.1).
        freeze_encoder: Train the heads only.
        pooling: How a sentence's token states become its embedding: `first` (the first token's, the paper's) or `mean`.
        priors: Share of each label in the rows, by task, where training drew the labels evenly and answers should know
            the difference (see `losses.with_prior`).
        temperatures: What a task's logits are divided by before they become probabilities, by task; 1 where not named.
        both_orders: Whether pairs of symmetric tasks were trained in either order, and are answered with the mean of
            both orders' logits.
    """

    model_type = "qabert"

    encoder: dict[str, Any] | None = None
    tasks: list[dict[str, Any]] | None = None
    input_format: str = "qa"
    max_length: int = 256
    head_blocks: int = 4
    head_width: int | None = None
    head_dropout: float = 0.1
    freeze_encoder: bool = False
    pooling: str = "first"
    priors: dict[str, list[float]] | None = None
    temperatures: dict[str, float] | None = None
    both_orders: bool = False
    initializer_range: float = 0.02

    def encoder_config(self) -> PreTrainedConfig:
        """The encoder's configuration as an object of its own class.

        Raises:
            ValueError: The dictionary names no architecture that this version of transformers has.
        """
        values = dict(self.encoder or {})
        model_type = values.pop("model_type", None)
        if model_type not in CONFIG_MAPPING:
            raise ValueError(f"config key 'encoder': model_type {model_type!r} is not one that transformers knows")
        return CONFIG_MAPPING[model_type](**values)

    def task(self, name: str) -> dict[str, Any]:
        """The declaration of one task.

        Raises:
            KeyError: The model has no such task; the message lists those it has.
        """
        for task in self.tasks or []:
            if task["name"] == name:
                return task
        raise KeyError(f"this model has no task '{name}'; it has: {', '.join(t['name'] for t in self.tasks or [])}")

    def segments(self, task: dict[str, Any]) -> int:
        """How many encoder inputs one row of the task makes: 2 for a pair in the `separate` format, else 1."""
        return 2 if self.input_format == "separate" and "text_b" in task["columns"] else 1
