"""The last layer for the first token only, which is all that `pooling: first` looks at.

Of the last layer's work a sentence embedding needs the keys and values of all tokens, but the query, the output
projection and the feed-forward of one: five sixths of a layer are saved, about 14 % of a 6-layer encoder and 7 % of a
12-layer one, forward and backward, and what is left computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import eager_attention_forward


def _heads(states: torch.Tensor, size: int) -> torch.Tensor:
    """`(batch, tokens, hidden)` to `(batch, heads, tokens, size)`."""
    return states.view(*states.shape[:-1], -1, size).transpose(1, 2)


def _bert_layer(
    layer: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any
) -> torch.Tensor:
    own, first = layer.attention.self, hidden_states[:, :1]
    query, key, value = (
        _heads(project(states), own.attention_head_size)
        for project, states in ((own.query, first), (own.key, hidden_states), (own.value, hidden_states))
    )
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, eager_attention_forward)
    mask = None if attention_mask is None else attention_mask[:, :, :1]
    dropout = own.dropout.p if own.training else 0.0
    context, _ = attend(own, query, key, value, mask, dropout=dropout, scaling=own.scaling)
    attended = layer.attention.output(context.reshape(*first.shape[:2], -1), first)
    return layer.output(layer.intermediate(attended), attended)


def _mpnet_layer(
    layer: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor]:
    own, first = layer.attention.attn, hidden_states[:, :1]
    query, key, value = (
        _heads(project(states), own.attention_head_size)
        for project, states in ((own.q, first), (own.k, hidden_states), (own.v, hidden_states))
    )
    scores = torch.matmul(query, key.transpose(-1, -2)) / own.attention_head_size**0.5
    for bias in (position_bias, attention_mask):
        if bias is not None:
            scores = scores + bias[:, :, :1]
    context = torch.matmul(own.dropout(scores.softmax(-1)), value).transpose(1, 2).reshape(*first.shape[:2], -1)
    attended = layer.attention.LayerNorm(layer.attention.dropout(own.o(context)) + first)
    return (layer.output(layer.intermediate(attended), attended),)


#: What computes a layer's first token, by the layer's class; other encoders are computed in full.
LAYERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("BertLayer", "RobertaLayer", "XLMRobertaLayer", "CamembertLayer", "ElectraLayer"), _bert_layer),
    "MPNetLayer": _mpnet_layer,
}


def _last_layer(encoder: nn.Module) -> Any:
    """The layer that can be computed for one token, or None."""
    layers = getattr(getattr(encoder, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return None
    layer = layers[-1]
    known = type(layer).__name__ in LAYERS and type(layer).__module__.startswith("transformers.models.")
    return layer if known and not getattr(layer, "is_decoder", False) else None


def is_known(encoder: nn.Module) -> bool:
    """Whether the encoder's last layer can be computed for one token."""
    return _last_layer(encoder) is not None


@contextmanager
def first_token_only(encoder: nn.Module) -> Iterator[None]:
    """Within this, an encoder that is known returns final hidden states `(batch, 1, hidden)`, of the first token.

    Encoders that aren't, and calls that need more (activation checkpointing computes a layer again, later; flash
    attention has masks of its own), return all tokens' states: the first one's are the same.
    """
    layer = _last_layer(encoder)
    attention = getattr(getattr(encoder, "config", None), "_attn_implementation", None) or "eager"
    again = layer is not None and getattr(layer, "gradient_checkpointing", False) and layer.training
    if layer is None or again or attention not in ("eager", "sdpa", "qabert"):
        yield
        return
    layer.forward = partial(LAYERS[type(layer).__name__], layer)
    try:
        yield
    finally:
        layer.__dict__.pop("forward", None)  # pop: another thread may have been here
