"""How much each token of an input counts: attention rollout and integrated gradients.

- `rollout` (Abnar and Zuidema, 2020): each layer's attention, averaged over its heads and mixed evenly with the
  residual connection, multiplied through the layers: how much of each token reaches the sentence's embedding.  Shares
  of 1.  It doesn't know the head, so it is the same whatever was answered.
- `gradients` (Sundararajan et al., 2017): integrated gradients of the answer's logit (a regression: of its value) over
  the token embeddings.  They are signed and sum to the difference that the tokens make to the logit.

The gradients' baseline is the same input with every token but the special ones replaced by the mask token: to the
encoder "some word that isn't known", which it has met since its pretraining.  A padding token's embedding was never
trained; it stands in only where a tokenizer has no mask token.  Special tokens don't differ from the baseline, so they
get exactly 0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from qabert.errors import InputError, unknown
from qabert.modeling.losses import BOUND
from qabert.tasks import Task

METHODS = ("rollout", "gradients")
STEPS = 32  # points on the path of integrated gradients


def check_methods(methods: Sequence[str]) -> None:
    """Check names of methods, and that what they need is installed.

    Raises:
        InputError: An unknown method or none, or captum isn't installed.
    """
    if not methods:
        raise InputError(f"name at least one method: {', '.join(METHODS)}")
    for method in methods:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    if "gradients" in methods and importlib.util.find_spec("captum") is None:
        raise InputError("the method 'gradients' needs captum, which isn't installed: pip install 'qabert[report]'")


def baseline_token(model: Any, tokenizer: Any) -> int:
    """The id of the mask token, or of the padding token where there is no mask that the encoder knows."""
    mask = tokenizer.mask_token_id
    return mask if mask is not None and mask < model.get_input_embeddings().num_embeddings else tokenizer.pad_token_id


def attention_rollout(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Attention rollout to the sentence embeddings (Abnar and Zuidema, 2020, section 3).

    Args:
        model: A `QABertModel`.
        inputs: `input_ids`, `attention_mask`, and `token_type_ids` where there are any, `(inputs, length)`.

    Returns:
        `(inputs, length)`: each row sums to 1, padding has 0.

    Raises:
        InputError: The encoder gives no attention of every token to every token.
    """
    with torch.no_grad(), _eager_attention(model.encoder):
        attentions = getattr(model.encoder(**inputs, output_attentions=True), "attentions", None) or ()
    mask = inputs["attention_mask"].float()
    inputs_, length = mask.shape
    for layer in attentions or (None,):
        if not isinstance(layer, torch.Tensor) or layer.dim() != 4 or layer.shape[-2:] != (length, length):
            kind = model.config.encoder_config().model_type
            raise InputError(
                f"the encoder ('{kind}') gives no attentions of every token to every token, which the method 'rollout' "
                f"needs; use the method 'gradients'"
            )
    if model.config.pooling == "mean":
        reached = mask / mask.sum(-1, keepdim=True)
    else:
        reached = torch.zeros_like(mask)
        reached[:, 0] = 1
    reached = reached.unsqueeze(1)
    identity = torch.eye(length, device=mask.device)
    for layer in reversed(attentions):  # a row times each matrix, from the last layer down: no product of matrices
        mixed = 0.5 * layer.float().mean(1) + 0.5 * identity
        reached = reached @ (mixed / mixed.sum(-1, keepdim=True))
    return reached.view(inputs_, length)


@contextmanager
def _eager_attention(encoder: Any) -> Iterator[None]:
    """Attention that is computed as a matrix, which faster ways never hold."""
    before = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        encoder.set_attn_implementation(before)


def integrated_gradients(
    model: Any,
    task: Task,
    inputs: dict[str, torch.Tensor],
    baseline: torch.Tensor,
    target: torch.Tensor,
    steps: int = STEPS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integrated gradients over the token embeddings (Sundararajan et al., 2017, equation 1).

    Args:
        model: A `QABertModel`.
        task: Which of its tasks.
        inputs: `input_ids`, `attention_mask`, and `token_type_ids` where there are any, `(segments × batch, length)`.
        baseline: Token ids of the baseline, of the same shape.
        target: Which output of the head, `(batch,)`.
        steps: Points on the way from the baseline.

    Returns:
        Attributions `(segments × batch, length)`, summed over the embedding's dimensions, and the output less the
        baseline's, `(batch,)`; a regression's in the unit of its range, not cut off at its ends.
    """
    from captum.attr import LayerIntegratedGradients

    scale = 1.0 if task.range is None else (task.range[1] - task.range[0]) / (2 * BOUND)

    def output(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None, chosen: torch.Tensor) -> torch.Tensor:
        logits = model(ids, mask, types, task=task.name).logits.float()
        return logits.gather(1, chosen.unsqueeze(1)).squeeze(1) * scale

    layer = model.get_input_embeddings()
    ids, length = inputs["input_ids"], inputs["input_ids"].shape[1]
    rest = (inputs["attention_mask"], inputs.get("token_type_ids"), target)
    frozen, model.config.freeze_encoder = model.config.freeze_encoder, False  # a frozen encoder keeps no gradients
    try:
        # One step of all rows per call: only so are a pair's two inputs where the model looks for them.
        attributions = LayerIntegratedGradients(output, layer).attribute(
            ids, baseline, additional_forward_args=rest, n_steps=steps, internal_batch_size=len(ids)
        )
        with torch.no_grad():
            embedded = layer(baseline)
            reached = output(ids, *rest)
            # The baseline's embeddings at the row's own positions: some encoders count positions by the ids.  Some
            # (Longformer) lengthen the input to whole windows; what they add stays.
            hook = layer.register_forward_hook(lambda _, __, own: torch.cat((embedded, own[:, length:]), 1))
            try:
                difference = reached - output(ids, *rest)
            finally:
                hook.remove()
    finally:
        model.config.freeze_encoder = frozen
    return attributions[:, :length].detach().float().sum(-1), difference
