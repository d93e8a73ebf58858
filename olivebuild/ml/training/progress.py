"""Figures of a training: those of a step in flight, and those of all steps so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

POINTS = 500
"""The most points of a curve in a step's metrics."""


@dataclass
class Progress:
    """Figures of a training so far, as they are stored with its state."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    smooth: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    scale: float = 1.0
    evaluation: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_figures(cls, figures: dict[str, Any]) -> Progress:
        """Return the progress that a state's figures hold, without what else they hold."""
        return cls(**{k: v for k, v in figures.items() if k in cls.__dataclass_fields__})

    def curve(self) -> dict[str, list[float]]:
        """Return at most POINTS points, the last step among them.

        The loss of a point is the mean over the steps since the point before it.
        """
        stride = max(1, math.ceil(len(self.losses) / POINTS))
        ends = sorted({*range(stride, len(self.losses) + 1, stride), len(self.losses)} - {0})
        # The last span is shorter where the stride does not divide the steps.
        spans = zip([0, *ends], ends, strict=False)
        means = [round(sum(self.losses[start:end]) / (end - start), 5) for start, end in spans]
        return {
            "step": [*map(float, ends)],
            "loss": means,
            "lr": [self.rates[end - 1] for end in ends],
            "grad_norm": [round(self.norms[end - 1], 4) for end in ends],
        }


class PendingFigures:
    """Loss and gradient norm of a step, copied from the device while it computes the next one."""

    def __init__(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.step = step
        self._figures = torch.stack([loss.detach().float(), norm.detach().float()])
        self._copied: torch.cuda.Event | None = None
        if self._figures.is_cuda:
            on_host = torch.empty(2, pin_memory=True)
            on_host.copy_(self._figures, non_blocking=True)
            self._figures, self._copied = on_host, torch.cuda.Event()
            self._copied.record()

    def read(self) -> tuple[float, float]:
        """Wait for the copy, and return loss and gradient norm."""
        if self._copied:
            self._copied.synchronize()
        loss, norm = self._figures.tolist()
        return loss, norm


def memory(device: torch.device) -> dict[str, int]:
    """Return the peak memory of this training so far, in bytes, for a metric."""
    if device.type == "cuda":
        return {"memory": torch.cuda.max_memory_allocated(device)}
    from olivebuild.core.host import peak_rss

    return {"memory": peak_rss()}
