"""The base while an adapter is trained: its number format, and where its frozen weights lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from olivebuild.core.errors import InputError
from olivebuild.core.text import size
from olivebuild.ml.models import load
from olivebuild.ml.nn import qlora
from olivebuild.ml.nn.frozen import fp8
from olivebuild.ml.nn.frozen.layers import FrozenLayers, decoder_layers
from olivebuild.steps.parts.frozen_base import fp8_problem

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import AdapterFields


def load_base(job: Job, fields: AdapterFields, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the input `model`, on the device or where its layers wait for it.

    Raises InputError for a model that can't be loaded, and where its number format has no products.
    """
    if fields.training.base == "fp8":
        _check_fp8(job, device)
    quantised = qlora.configuration(fields.quantisation, dtype) if fields.quantises else None
    base = job.input("model")
    # 4-bit weights are made where they are computed.
    waits = fields.training.pages_base and not quantised
    loaded = load.load_model(
        base.folder,
        dtype,
        torch.device("cpu") if waits else device,
        trust_remote_code=base.trust_remote_code,
        quantised=quantised,
        where=job.where("model"),
    )
    qlora.for_training(loaded)
    return loaded


def place(job: Job, fields: AdapterFields, model: Any, device: torch.device, shares: int) -> None:
    """Give peft's `model` the base's number format and place.

    `shares`: processes that will have a piece of each layer. Raises InputError for a model without
    decoder layers, or without a layer that FP8 takes.
    """
    training = fields.training
    if training.base is None and not training.pages_base:
        return
    asked = "base" if training.base else "offload" if training.offload else "shard"
    if not decoder_layers(model):
        raise InputError(
            f"the model has no list of decoder layers, which training.{asked} is about",
            where=job.where("training", asked),
            hint="leave it out",
        )
    if training.base == "fp8":
        # What comes and goes is as little as possible.
        both = not training.pages_base and _has_room(model, device)
        _to_fp8(job, model, both_layouts=both)
    if not training.pages_base:
        return
    layers = FrozenLayers(model, device, shares, fp8.seconds_of(model))
    if not fields.quantises:
        model.to(device)
    where = "in the processor's memory"
    if training.shard:
        where = f"in pieces, one for each of {shares} processes" if shares > 1 else where
        if shares == 1:
            job.note("one process trains alone, so that shard: base has nobody to share with")
    job.note(
        f"frozen weights of {len(layers)} layers lie {where}, {size(layers.kept)} in all, and on "
        f"the device while they are used: {size(layers.two_layers)} at a time"
    )


def _check_fp8(job: Job, device: torch.device) -> None:
    """Raise InputError where there are no products in FP8."""
    where = job.where("training", "base")
    if device.type == "cuda":
        if problem := fp8_problem(torch.cuda.get_device_capability(device)):
            raise InputError(problem.fact, where=where, hint=problem.hint)
    elif device.type != "cpu":
        raise InputError(
            f"base: fp8 has no products on {device.type}", where=where, hint="leave `base` out"
        )


ROOM = 4
"""How many times the base's bytes are free where its weights lie there in both layouts."""


def _has_room(model: Any, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return bool(torch.cuda.mem_get_info(device)[0] > ROOM * size)


def _to_fp8(job: Job, model: Any, *, both_layouts: bool) -> None:
    count, left_out = fp8.quantise_base(model, both_layouts=both_layouts)
    if not count:
        raise InputError(
            "the model has no frozen linear layer that FP8 takes: sizes that are multiples of 16",
            where=job.where("training", "base"),
            hint="leave `base` out",
        )
    rest = f"; {left_out} stay as they are, whose sizes are no multiples of 16" if left_out else ""
    layouts = ", in both layouts," if both_layouts else ""
    job.note(
        f"{count} frozen linear layers are in FP8{layouts} while training, by two roundings that "
        f"take turns{rest}"
    )
