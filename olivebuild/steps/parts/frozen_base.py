"""The base while an adapter is trained (`training.base`, `offload`, `shard`): what goes together.

`fields` are always those of the kind `adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olivebuild.core.errors import Problem, RecipeError

HALF_OR_WHOLE = ("float16", "float32")
"""Number formats in which cards have no products of FP8 matrices with a scale for each row."""
LEAST_CAPABILITY = (8, 9)
"""The compute capability from which on NVIDIA's GPUs have products in FP8: Ada and Hopper."""


def fp8_problem(capability: tuple[int, int]) -> Problem | None:
    """Return why a GPU of that compute capability has no products in FP8; None if it has."""
    if capability >= LEAST_CAPABILITY:
        return None
    has, wants = (".".join(map(str, c)) for c in (capability, LEAST_CAPABILITY))
    return Problem(
        f"base: fp8 needs a GPU of compute capability {wants} or later, and this one has {has}",
        "leave `base` out; method: qlora takes less memory on any GPU",
    )


def check(fields: Any) -> Problem | None:
    """Return what is wrong with how the base is kept; None if nothing."""
    training = fields.training
    if training.offload and training.shard:
        return Problem(
            "training.offload and training.shard each say where frozen weights lie",
            "leave one out: shard where several GPUs hold the base together, offload where not",
        )
    if training.shard and fields.module_dropout:
        return Problem(
            "module_dropout leaves layers out by chance, in each process others, and shard: base "
            "has all compute the same layers",
            "leave `shard` out, or write offload: cpu",
        )
    return _check_fp8(fields) if training.base == "fp8" else None


def _check_fp8(fields: Any) -> Problem | None:
    if fields.method != "lora":
        return Problem(
            f"training.base: fp8 goes with method: lora, and the method is {fields.method}",
            "write method: lora, or leave `base` out",
        )
    if fields.dora:
        return Problem(
            "`dora` takes the norms of the base's own weights, and training.base: fp8 rounds them",
            "leave one of the two out",
        )
    if fields.training.dtype in HALF_OR_WHOLE:
        return Problem(
            f"training.base: fp8 is added up in bfloat16, and dtype is {fields.training.dtype}",
            "leave `dtype` out",
        )
    return None


def check_resources(fields: Any, resources: Mapping[str, float]) -> None:
    """Raise RecipeError where `shard: base` has no GPUs, or no single machine, to share by."""
    if not fields.training.shard:
        return
    if resources.get("nodes", 1) > 1:
        raise RecipeError(
            "training.shard: base gathers weights from the GPUs of one machine, and the target "
            f"takes {resources['nodes']:g} nodes",
            hint="leave `nodes` out, or write offload: cpu in the place of `shard`",
        )
    if resources.get("gpu", 1) < 2:
        raise RecipeError(
            "training.shard: base shares the base among several GPUs, and the target takes one",
            hint="resources: {gpu: 2}; offload: cpu keeps the base in the processor's memory",
        )
