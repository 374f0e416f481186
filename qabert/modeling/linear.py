"""Linear layers by oneDNN, torch's CPU library: the same numbers, faster.

Torch multiplies float32 by MKL, which is slower than oneDNN on some CPUs (by a fifth on an AMD EPYC), and lays out
bfloat16 weights anew in every call.  The operators are those that `torch.compile` puts into its models.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

#: Rows (tokens of a call) that the layout is chosen for; any number is answered.
ROWS = 2048


def _linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return result


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(values, weight)
        return _linear(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        values, weight = ctx.saved_tensors
        rows = gradients[0].reshape(-1, gradients[0].shape[-1])
        for_values, for_weight, for_bias = ctx.needs_input_grad
        return (
            _linear(gradients[0], weight.t(), None) if for_values else None,
            rows.t() @ values.reshape(-1, values.shape[-1]) if for_weight else None,  # MKL's is the faster one here
            rows.sum(0) if for_bias else None,
        )


class FastLinear(nn.Linear):
    """An `nn.Linear` whose float32 products are oneDNN's in training, and whose weights are laid out once for answers.

    Both on a CPU only; in evaluation mode with gradients, under autocast and elsewhere it is what it was.  The second
    copy of the weights is made at the first call in `torch.inference_mode`, and anew when the weights have changed.
    """

    _packed: tuple[Any, torch.Tensor] | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        weight = self.weight
        here = values.device.type == weight.device.type == "cpu" and values.dtype == weight.dtype and values.numel()
        if not here or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return super().forward(values)
        if torch.is_inference_mode_enabled() and _has_products(weight.dtype):
            state = (weight.data_ptr(), weight.dtype, None if weight.is_inference() else weight._version)
            if self._packed is None or self._packed[0] != state:
                self._packed = (state, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS))
            return _linear(values, self._packed[1], self.bias)
        if self.training and torch.is_grad_enabled() and values.dtype == torch.float32:
            result: torch.Tensor = _LinearFunction.apply(values, weight, self.bias)
            return result
        return super().forward(values)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # a layout can be neither copied nor pickled


@functools.cache
def _has_products(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN's products of this type on this CPU; bfloat16's need AVX512 or AVX-NE-CONVERT."""
    try:
        with torch.inference_mode():
            # On the CPU also where models are built on no device at all, as `from_pretrained` does.
            values, weight, bias = (torch.zeros(size, dtype=dtype, device="cpu") for size in ((2, 3), (4, 3), (4,)))
            _linear(values, torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), bias)
            _linear(values, weight.t().contiguous().t(), None)
    except (RuntimeError, AttributeError):  # a CPU that can't, or a torch without these operators
        return False
    return True


def use_fast_linear(module: nn.Module) -> None:
    """Make every plain `nn.Linear` inside a module a `FastLinear`, if this torch can; no weight and no name changes."""
    if not torch.backends.mkldnn.is_available() or not _has_products(torch.float32):
        return
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FastLinear
