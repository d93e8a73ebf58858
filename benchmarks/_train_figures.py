"""What training loops are measured by: clock, memory, tokens a second, and a card's ceiling."""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

from benchmarks._train_inputs import SKIPPED


def torch_here() -> Any:
    import torch

    if os.environ.get("BENCHMARK_THREADS"):
        torch.set_num_threads(int(os.environ["BENCHMARK_THREADS"]))
    return torch


SUSTAINED = 5.0
"""Seconds."""


def ceiling(_folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch = torch_here()
    size = 256 if options.quick else 8192
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def run(count: int) -> float:
        start = clock(torch)
        for _ in range(count):
            a @ b
        return clock(torch) - start

    run(3)
    once = min(run(20) for _ in range(3)) / 20
    # A card that is kept busy slows down to stay within its power; a training keeps it busy.
    long = 20 if options.quick else round(SUSTAINED / once)
    return {"flops": 2 * size**3 / once, "sustained": 2 * size**3 * long / run(long)}


def clock(torch: Any) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def memory(torch: Any) -> int:
    from olivebuild.core.host import peak_rss

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_rss()


def figures(
    torch: Any,
    model: Any,
    ends: list[float],
    tokens: list[int],
    losses: list[float],
    ahead: int = 0,
    skipped: int = SKIPPED,
) -> dict[str, Any]:
    """`ends`: the clock before the first step and after each, that after step `skipped` when
    `ahead` more were done.
    """
    first = min(skipped, len(tokens) - 1)
    speed = sum(tokens[first + ahead :]) / (ends[-1] - ends[first])
    return {
        "tokens_per_second": round(speed, 1),
        "parameters": sum(parameters_in(p) for p in model.parameters() if not p.requires_grad),
        "memory": memory(torch),
        "first_step": round(ends[1] - ends[0], 2),
        "steps": len(tokens),
        "losses": [round(x, 5) for x in losses],
    }


def parameters_in(tensor: Any) -> int:
    """Of one in 4 bits, those that it stands for."""
    state = getattr(tensor, "quant_state", None)
    return math.prod(state.shape) if state else int(tensor.numel())
