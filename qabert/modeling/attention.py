"""Attention as `transformers` calls it: torch's own, but for training on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from .dropout import dropout as drop

#: The name under which `transformers` finds it.
ATTENTION = "qabert"


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scaled dot-product attention.

    On a CPU torch's fused kernel knows no dropout, and its backward pass is slower than plain matrix products on
    sentences; without gradients, and on other devices, it is what is called.

    Args:
        module: The layer that calls.
        query: `(batch, heads, queries, head size)`.
        key: `(batch, heads, keys, head size)`.
        value: Same shape as `key`.
        attention_mask: Added to the scores, `(batch, 1, queries, keys)`; None where nothing is padding.
        dropout: Probability with which a weight of the attention is dropped.
        scaling: Factor of the scores.
        kwargs: For torch's own.

    Returns:
        `(batch, queries, heads, head size)`, and the weights where they were computed.
    """
    if query.device.type != "cpu" or not (torch.is_grad_enabled() and value.requires_grad):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * factor, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = drop(scores.softmax(-1, dtype=torch.float32).to(value.dtype), dropout, training=dropout > 0)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, eager_mask)
