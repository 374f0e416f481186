"""The prediction head of one task."""

from __future__ import annotations

import torch
from torch import nn


class Head(nn.Sequential):
    """`blocks` times Linear → LayerNorm → Dropout → ReLU, then one Linear to the logits (paper, section 4.1).

    Shapes: `(batch, in_features)` → `(batch, out_features)`.

    Example:
        >>> Head(8, 5, blocks=4, width=8, dropout=0.1)(torch.zeros(2, 8)).shape
        torch.Size([2, 5])
    """

    def __init__(self, in_features: int, out_features: int, *, blocks: int, width: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers += [nn.Linear(in_features, width), nn.LayerNorm(width), nn.Dropout(dropout), nn.ReLU()]
            in_features = width
        super().__init__(*layers, nn.Linear(in_features, out_features))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, out_features)` of the sentence embedding `(batch, in_features)`."""
        return super().forward(embedding)
