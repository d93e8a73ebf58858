"""The weights that are trained: the model's own, and the float32 copies that are stepped."""

from __future__ import annotations

from typing import Any

import torch

from olivebuild.ml.nn.aware import layers


class Trainable:
    """Weights to train, by `names`: the model's own (`used`), and the same in float32 (`weights`).

    In half precision a step may be smaller than a weight's last bit. Where the model computes in
    float32, both are the same tensors.
    """

    def __init__(self, model: Any) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.used = [p for _, p in named]
        self.weights = [
            p if p.dtype == torch.float32 else p.detach().float().requires_grad_()
            for p in self.used
        ]
        self._rounding = layers.rounding_layers(model)
        self._mixed = [(w, u) for w, u in zip(self.weights, self.used, strict=True) if w is not u]

    @torch.no_grad()
    def take_gradients(self, scale: float) -> None:
        """Move the gradients of `used` to `weights`, in float32 and divided by `scale`."""
        pairs = [(w, u) for w, u in self._mixed if u.grad is not None]
        for weight, _ in pairs:
            weight.grad = torch.empty_like(weight, memory_format=torch.contiguous_format)
        if pairs:
            # One kernel for all: there are hundreds.
            torch._foreach_copy_([w.grad for w, _ in pairs], [u.grad for _, u in pairs])
        for _, used in pairs:
            used.grad = None
        if scale != 1:
            self._divide_gradients(scale)

    def fill_gradients(self) -> None:
        """Give zeros to weights that no row has reached: those of layers that were left out.

        Each step is then one of all weights, as processes and states count them.
        """
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def _divide_gradients(self, scale: float) -> None:
        gradients = [w.grad for w in self.weights if w.grad is not None]
        # A process without a row in a batch has none.
        if gradients:
            torch._foreach_div_(gradients, scale)

    def forget_rounded(self) -> None:
        """Let layers that round their weights with what is added to them do so anew."""
        layers.forget(self._rounding)

    @torch.no_grad()
    def use(self) -> None:
        """Let the model compute with `weights` as they are now."""
        self.forget_rounded()
        if self._mixed:
            torch._foreach_copy_([u for _, u in self._mixed], [w for w, _ in self._mixed])
