"""The mean of several models' weights: of a run's last checkpoints, or of runs that began alike.

Models that were fine-tuned from the same encoder mostly lie in one basin of the loss, and their mean often generalises
better than each (Izmailov et al., 2018; Wortsman et al., 2022).  It costs nothing when it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from qabert.checkpoints import whole_folder
from qabert.errors import InputError
from qabert.files import check_new_folder
from qabert.inference import Predictor

#: What of a configuration may differ between models that are averaged.
FREE = ("priors", "temperatures", "head_dropout", "freeze_encoder", "transformers_version", "_name_or_path", "dtype")


@torch.no_grad()
def average(models: Sequence[str], output: Path) -> None:
    """Write a model whose every weight is the mean of these models' weights.

    Args:
        models: Folders that training wrote (a run's, or one of its checkpoints), or hub names; at least two.
        output: The folder; must not exist, or be empty.

    Raises:
        InputError: A model can't be loaded, two differ in more than their weights, or there is such a folder.
    """
    if len(models) < 2:
        raise InputError(f"expected at least two models to average; got {len(models)}")
    check_new_folder(output)
    first = Predictor.from_pretrained(models[0], "cpu")
    wanted = _meaning(first)
    weights = first.model.state_dict()  # the tensors themselves: what is added to them, the model has
    sums = {name: value.double() for name, value in weights.items() if value.is_floating_point()}
    for name in models[1:]:
        other = Predictor.from_pretrained(name, "cpu")
        found = _meaning(other)
        for key in sorted({*wanted, *found}):
            if wanted.get(key) != found.get(key):
                raise InputError(f"models '{models[0]}' and '{name}' can't be averaged: their '{key}' differs")
        for weight, value in other.model.state_dict().items():
            if weight in sums:
                sums[weight] += value
    for weight, total in sums.items():
        weights[weight].copy_(total / len(models))
    first.model.config.temperatures = None  # of the model as it was
    with whole_folder(output) as part:
        first.model.save_pretrained(part)
        first.tokenizer.save_pretrained(part)


def _meaning(predictor: Predictor) -> dict[str, object]:
    """What has to be the same of all models: their configurations, with the words of their tokenizers."""
    values = {key: value for key, value in predictor.model.config.to_dict().items() if key not in FREE}
    encoder = {k: v for k, v in (values.pop("encoder") or {}).items() if "dropout" not in k and k not in FREE}
    return (
        values
        | {f"encoder.{key}": value for key, value in encoder.items()}
        | {"tokenizer": predictor.tokenizer.get_vocab()}
    )
