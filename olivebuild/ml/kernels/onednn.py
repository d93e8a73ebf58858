"""Linear layers computed by oneDNN, from weights laid out for it once.

torch multiplies float32 matrices by oneMKL, which lays out the weights anew at each call and leaves
AVX-512 aside on AMD's processors: oneDNN was 2.3 times as fast there (Zen 5, passes of 32 to 512
tokens). Both compute in float32, and differ in the last digits. torch's compiler uses the same two
operators for frozen models (torch/_inductor/mkldnn_lowerings.py).
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import nn

MACHINES = ("x86_64", "AMD64")
PASS = 256
"""A usual number of tokens in a pass: the layout is chosen for it, and right for any."""


def pack_linear(model: nn.Module) -> int:
    """Let oneDNN compute a model's linear layers; return how many it computes from now on.

    It is for models that are only run forwards: their weights are kept in oneDNN's layout alone,
    and what a layer shows as `weight` is of its shape and empty. Layers whose weights others use,
    too, stay, and so do all but float32 ones on x86 processors.
    """
    if platform.machine() not in MACHINES or not torch.backends.mkldnn.is_available():
        return 0
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[parameter.data_ptr()] = users.get(parameter.data_ptr(), 0) + 1
    layers = [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear and _is_plain(layer) and users[layer.weight.data_ptr()] == 1
    ]
    for layer in layers:
        _pack(layer)
    return len(layers)


def _is_plain(layer: nn.Linear) -> bool:
    weight = layer.weight
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.numel() > 0


def _pack(layer: nn.Linear) -> None:
    """Replace a layer's weight and its computation."""
    operators: Any = torch.ops.mkldnn
    with torch.no_grad():
        packed = operators._reorder_linear_weight(layer.weight.detach(), PASS)
        shown = torch.zeros(1, dtype=layer.weight.dtype).expand(layer.weight.shape)
    bias = layer.bias.detach() if layer.bias is not None else None

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = operators._linear_pointwise(x, packed, bias, "none", [], "")
        return result

    layer.weight = nn.Parameter(shown, requires_grad=False)
    # An instance's own: calls of the module, hooks included, come here.
    layer.forward = forward  # type: ignore[method-assign, assignment]
