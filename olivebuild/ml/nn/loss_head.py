"""The summed loss of a head that is not trained.

With its gradient by what goes into the head: a piece of the logits at a time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from olivebuild.ml.nn.linear import linear

LOGITS = 1 << 26
"""Logits that are held at once; 256 MiB in float32."""
COMPILED_LOGITS = 1 << 28
"""The same where no float32 copy of them is made; 512 MiB."""


def head_loss(
    model: Any, hidden: torch.Tensor, targets: torch.Tensor, *, compiled: bool
) -> torch.Tensor:
    """cross_entropy(head(hidden), targets, reduction="sum").

    `compiled`: in one kernel, which takes some seconds to make.
    """
    head = model.get_output_embeddings()
    loss: torch.Tensor = _HeadLoss.apply(hidden, head.weight, head.bias, targets, compiled)
    return loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        compiled: bool,
    ) -> torch.Tensor:
        count = max(
            1, -(-len(hidden) * weight.shape[0] // (COMPILED_LOGITS if compiled else LOGITS))
        )
        size = max(1, -(-len(hidden) // count))
        total, gradient = torch.zeros((), device=hidden.device), torch.empty_like(hidden)
        slope = _compiled_slope() if compiled else _slope
        for start in range(0, len(hidden), size):
            piece = slice(start, start + size)
            loss, by_logits = slope(linear(hidden[piece], weight, bias), targets[piece])
            total += loss
            gradient[piece] = linear(by_logits, weight.T)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None, None


def _slope(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss, and its gradient by the logits."""
    values = logits.float()
    norm = values.logsumexp(-1, keepdim=True)
    loss = (norm[:, 0] - values.gather(1, targets[:, None])[:, 0]).sum()
    slope = values.sub_(norm).exp_()
    return loss, slope.scatter_add_(1, targets[:, None], torch.full_like(norm, -1.0)).to(
        logits.dtype
    )


def _slope_in_one(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the slope as above, of operations that compile into one pass over the logits.

    A maximum by hand, no scattering.
    """
    values = logits.float()
    top = values.amax(-1, keepdim=True)
    norm = (values - top).exp().sum(-1, keepdim=True).log() + top
    loss = (norm - values.gather(1, targets[:, None])).sum()
    wanted = torch.arange(logits.shape[1], device=logits.device)[None] == targets[:, None]
    return loss, ((values - norm).exp() - wanted.to(values.dtype)).to(logits.dtype)


@cache
def _compiled_slope() -> Any:
    return torch.compile(_slope_in_one, dynamic=True)
