"""The weights that are trained: as the model computes with them, and the float32 ones that are
stepped.
"""

from __future__ import annotations

from typing import Any

import torch


class Trainable:
    """`used` are the model's own parameters; `weights` the same in float32: in half precision a
    step may be smaller than a weight's last bit.
    """

    def __init__(self, model: Any) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.used = [p for _, p in named]
        self.weights = [
            p if p.dtype == torch.float32 else p.detach().float().requires_grad_()
            for p in self.used
        ]
        self._mixed = [(w, u) for w, u in zip(self.weights, self.used, strict=True) if w is not u]

    @torch.no_grad()
    def take_gradients(self, scale: float) -> None:
        """Give `weights` the gradients of `used`, in float32 and divided by `scale`; all in one
        kernel, for there are hundreds.
        """
        given = [(w, u) for w, u in self._mixed if u.grad is not None]
        for weight, _ in given:
            weight.grad = torch.empty_like(weight, memory_format=torch.contiguous_format)
        if given:
            torch._foreach_copy_([w.grad for w, _ in given], [u.grad for _, u in given])
        for _, used in given:
            used.grad = None
        gradients = [w.grad for w in self.weights if w.grad is not None]
        # A process without a row in a batch has none.
        if scale != 1 and gradients:
            torch._foreach_div_(gradients, scale)

    @torch.no_grad()
    def use(self) -> None:
        """Compute with what `weights` have become."""
        if self._mixed:
            torch._foreach_copy_([u for _, u in self._mixed], [w for w, _ in self._mixed])
