"""Learning rates: the heads' own, and lower ones for an encoder's lower layers."""

from __future__ import annotations

import re
from typing import Any

import torch

#: A layer's number in a weight's name: `encoder.layer.3.…` (BERT, MPNet), `layers.3.…` (ModernBERT), `h.3.…` (GPT).
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|block)\.(\d+)\.")


def learning_rates(model: Any, rate: float, head_rate: float | None, layer_decay: float) -> dict[str, float]:
    """Learning rate of each of a model's weights, by name.

    Args:
        model: A `QABertModel`.
        rate: Of the encoder's last layer.
        head_rate: Of the heads; None means `rate`.
        layer_decay: Each layer learns at this times the rate of the one above it, the embeddings below the first layer
            (Howard & Ruder, 2018; Clark et al., 2020).
    """
    names = [name for name, _ in model.named_parameters()]
    numbers = {name: int(found[1]) for name in names if name.startswith("encoder.") and (found := _LAYER.search(name))}
    layers = max(numbers.values(), default=-1) + 1
    rates = {}
    for name in names:
        if not name.startswith("encoder."):
            rates[name] = rate if head_rate is None else head_rate
        elif name in numbers:
            rates[name] = rate * layer_decay ** (layers - 1 - numbers[name])
        else:  # embeddings, and what all layers share; a norm after the last layer belongs to that one
            rates[name] = rate * (1.0 if "final" in name else layer_decay**layers)
    return rates


def regroup(optimizer: torch.optim.Optimizer, model: Any, rates: dict[str, float]) -> None:
    """Split an optimizer's parameter groups so that each weight learns at its own rate; other settings stay."""
    of = {id(parameter): rates[name] for name, parameter in model.named_parameters()}
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for group in groups:
        for rate in sorted({of[id(parameter)] for parameter in group["params"]}, reverse=True):
            chosen = [parameter for parameter in group["params"] if of[id(parameter)] == rate]
            optimizer.add_param_group({**group, "params": chosen, "lr": rate})
