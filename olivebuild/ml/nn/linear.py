"""Products whose gradients the caller takes.

By the library that is fastest at them on a processor.
"""

from __future__ import annotations

from typing import Any

import torch

ONEDNN: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()
    else None
)
"""oneDNN's product of float32, which torch itself asks for only in layers that it has compiled; it
has no public name.
"""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """As torch.nn.functional.linear: [n, inputs] x [outputs, inputs] -> [n, outputs]."""
    if ONEDNN is None or x.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32:
        return torch.nn.functional.linear(x, weight, bias)
    out: torch.Tensor = ONEDNN(x, weight, bias, "none", [], "")
    return out
