"""One encoder, a head per task."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from .attention import ATTENTION
from .configuration_qabert import QABertConfig
from .dropout import use_fast_dropout
from .first_token import first_token_only, is_known
from .heads import Head
from .linear import use_fast_linear
from .losses import LOSSES, activate, with_prior


@dataclass
class QABertOutput(ModelOutput):
    """Output of `QABertModel`.

    Args:
        loss: Scalar, the mean over the batch; only where labels were given.
        logits: `(batch, outputs)`.
        embedding: `(batch, segments × hidden)`: the pooled final hidden states, a pair's two side by side.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    embedding: torch.Tensor | None = None


class QABertModel(PreTrainedModel):
    """A shared encoder and one head per task (paper, section 4.1).

    Example:
        >>> model = QABertModel.from_encoder(path, tasks=[task.to_dict()], input_format="qa")
        >>> model(**tokenizer("Is this review positive?", "Lovely.", return_tensors="pt"), task="sst").logits.shape
        torch.Size([1, 5])
    """

    config: QABertConfig
    config_class = QABertConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    # The loss is a mean over the rows it is given; the Trainer must not hand it counts to divide by.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: QABertConfig) -> None:
        super().__init__(config)
        encoder_config = config.encoder_config()
        # "sdpa" is what transformers chooses unasked, also for encoders without it (MPNet): let the encoder choose.
        chosen = config._attn_implementation
        encoder_config._attn_implementation = None if chosen == "sdpa" else chosen
        self.encoder = AutoModel.from_config(encoder_config, trust_remote_code=False, **_no_pooler(encoder_config))
        speed_up(self.encoder)
        hidden = encoder_config.hidden_size
        self.heads = nn.ModuleDict(
            {
                # A dot or a method's name can't be a module's name: the prefix makes every task name a legal one.
                f"head_{task['name']}": Head(
                    hidden * config.segments(task),
                    len(task["labels"]) if task["problem"] == "classification" else 1,
                    blocks=config.head_blocks,
                    width=config.head_width or hidden,
                    dropout=config.head_dropout,
                )
                for task in config.tasks or []
            }
        )
        if config.freeze_encoder:
            self.encoder.requires_grad_(False)
        self.post_init()

    @classmethod
    def from_encoder(
        cls, path: str, *, dropout: float | None = None, attn_implementation: str | None = None, **config: Any
    ) -> QABertModel:
        """A model with a pretrained encoder and new heads.

        Args:
            path: Folder or hub name of any `AutoModel` text encoder.
            dropout: Dropout inside the encoder; None keeps what its configuration says.
            attn_implementation: `eager`, `sdpa`, …; None leaves the choice to transformers.
            config: Fields of `QABertConfig`.
        """
        encoder_config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if dropout is not None:
            set_dropout(encoder_config, dropout)
        encoder = AutoModel.from_pretrained(
            path,
            config=encoder_config,
            trust_remote_code=False,  # None would ask on the terminal
            use_safetensors=True,  # a pickle can run code
            dtype=torch.float32,
            attn_implementation=attn_implementation,
            **_no_pooler(encoder_config),
        )
        values = encoder.config.to_dict()
        values.pop("_name_or_path", None)  # a folder of this machine, which a checkpoint must not carry
        own = QABertConfig(encoder=values, **config)
        own._attn_implementation = encoder.config._attn_implementation
        model = cls(own)
        if attn_implementation is not None:  # an "sdpa" that was asked for is just that
            model.encoder.set_attn_implementation(attn_implementation)
        model.encoder.load_state_dict(encoder.state_dict())
        return model

    def train(self, mode: bool = True) -> QABertModel:
        """Training mode, but for a frozen encoder: it computes what it computed, without dropout."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
            self.encoder.requires_grad_(False)  # from_pretrained puts new parameters in, then calls eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embeddings."""
        self.encoder.set_input_embeddings(value)

    def embed(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        segments: int = 1,
    ) -> torch.Tensor:
        """Sentence embeddings `(batch, segments × hidden)` of `(segments × batch, length)` token ids."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            pooled = sentence_embeddings(self.encoder, inputs, self.config.pooling)
        return torch.cat(pooled.chunk(segments), dim=-1) if segments > 1 else pooled

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        task: str | None = None,
        labels: torch.Tensor | None = None,
        embedding: torch.Tensor | None = None,
    ) -> QABertOutput:
        """Answer one task for a batch.

        Args:
            input_ids: `(segments × batch, length)`: all first sentences, then all second ones (see `DataCollator`).
            attention_mask: Same shape, 1 for tokens and 0 for padding.
            token_type_ids: Same shape, for encoders that have them.
            task: Which head answers.  May be left out where the model has one task only.
            labels: `(batch,)`, class indices or values in the task's unit.
            embedding: `(batch, segments × hidden)`: what `embed` makes of the tokens, given instead of them.

        Raises:
            ValueError: No task was named and the model has several; or neither tokens nor their embedding were given.
            KeyError: The model has no such task.
        """
        names = [declared["name"] for declared in self.config.tasks or []]
        if task is None:
            if len(names) != 1:
                raise ValueError(f"name the task to answer: one of {', '.join(names)}")
            task = names[0]
        declared = self.config.task(task)
        if embedding is None:
            if input_ids is None:
                raise ValueError("give input_ids or embedding")
            embedding = self.embed(input_ids, attention_mask, token_type_ids, self.config.segments(declared))
        # The heads run in their own precision: their LayerNorms and the losses are small and gain nothing from less.
        with torch.autocast(embedding.device.type, enabled=False):
            head = cast(Head, self.heads[f"head_{task}"])
            logits = head(embedding.to(next(head.parameters()).dtype))
            loss = None
            if labels is not None:
                loss = LOSSES[declared["problem"]](logits, labels, declared.get("range"))
        return QABertOutput(loss=loss, logits=logits, embedding=embedding)

    def answers(self, logits: torch.Tensor, task: str) -> torch.Tensor:
        """Probabilities, or values in the task's unit, of logits: see `losses.activate` and `losses.with_prior`."""
        declared = self.config.task(task)
        if (prior := (self.config.priors or {}).get(task)) is not None:
            logits = with_prior(logits, declared["problem"], prior)
        if (temperature := (self.config.temperatures or {}).get(task)) is not None:
            logits = logits / temperature
        return activate(logits, declared["problem"], declared.get("range"))


def speed_up(encoder: Any) -> None:
    """Let an encoder compute the same faster: its linear layers, its dropout, and its attention unless one was chosen.

    The draws of dropout differ from those of the encoder as it was; their distribution doesn't.
    """
    use_fast_linear(encoder)
    use_fast_dropout(encoder)
    if is_known(encoder) and encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation(ATTENTION)


def sentence_embeddings(
    encoder: nn.Module, inputs: dict[str, Any], pooling: str, wrapped: nn.Module | None = None
) -> torch.Tensor:
    """Embeddings `(batch, hidden)` of an encoder's inputs, without computing what they don't need.

    Args:
        encoder: The encoder.
        inputs: Its inputs; `attention_mask` among them.
        pooling: See `pool`.
        wrapped: What to call instead, where the encoder is inside of it (in DDP, say).
    """
    with first_token_only(encoder) if pooling == "first" else nullcontext():
        states = (wrapped or encoder)(**inputs).last_hidden_state
    return pool(states, inputs["attention_mask"], pooling)


def pool(states: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Embeddings `(batch, hidden)` of final hidden states `(batch, length, hidden)`.

    Raises:
        ValueError: `pooling` is neither `first` nor `mean`.
    """
    if pooling == "first":
        return states[:, 0]
    if pooling != "mean":
        raise ValueError(f"config key 'pooling' has {pooling!r}; expected 'first' or 'mean'")
    # In float32 also where the encoder runs in less: a sum of many rounds each time.
    if attention_mask is None:
        return states.mean(1, dtype=torch.float32)
    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * mask).sum(1, dtype=torch.float32) / mask.sum(1, dtype=torch.float32).clamp(min=1)


def set_dropout(encoder_config: Any, dropout: float) -> None:
    """Set every dropout probability that the encoder's configuration names (BERT has two, ModernBERT four)."""
    for key, value in encoder_config.to_dict().items():
        if key.endswith(("dropout", "dropout_prob")) and key != "classifier_dropout" and isinstance(value, int | float):
            setattr(encoder_config, key, dropout)


def _no_pooler(encoder_config: Any) -> dict[str, bool]:
    """Leave the tanh pooler out where the encoder can: it is never used, so it would stay untrained."""
    model_class: Any = AutoModel._model_mapping[type(encoder_config)]
    parameters = inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}
