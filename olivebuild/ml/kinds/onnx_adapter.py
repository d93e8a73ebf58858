"""Adapters for the slots of an ONNX model: a file of tensors, and what the adapter brings along."""

from __future__ import annotations

from pathlib import Path

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.formats.source import Source
from olivebuild.formats.structure.adapter_slots import Slots
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.view import Shard, Weight, Weights
from olivebuild.steps.onnx_adapter import ROLE, OnnxAdapterFields


def run(job: Job) -> None:
    """Make the artifact in `job.out`. Raises InputError for an adapter that does not fit."""
    from olivebuild.ml.onnx.slots import adapter_file
    from olivebuild.ml.weights.adapter_config import why_unusable
    from olivebuild.ml.weights.lora import open_input

    fields = job.fields(OnnxAdapterFields)
    slots = adapter_file.read_slots(Path(job.input(ROLE).path), job.where("base"))
    field = "source" if fields.source else "adapter"
    adapter = (
        _import(job, fields.source) if fields.source else open_input(job.store, job.input(field))
    )
    config = adapter.file("adapter_config.json")
    if refusal := why_unusable(config):
        raise InputError(refusal[0], where=job.where(field), hint=refusal[1])
    try:
        parts = adapter_file.parts_of(adapter, slots, job.input(ROLE).target, job.where(field))
    except NotProvenEqual as e:
        raise InputError(
            f"the adapter can't be kept apart from an ONNX model: {e}",
            where=job.where(field),
            hint="merge it, and convert the merged model",
        ) from None
    _take_along(job, adapter, slots, fields)
    size = adapter_file.write(job.out, parts, slots, job.where(field))
    job.result = Result(
        metrics={
            "modules": len(parts),
            "rank": max(part.rank for part in parts),
            "bytes": size,
        }
    )


def _import(job: Job, source: Source) -> Weights:
    """Open an adapter folder from elsewhere. Raises InputError."""
    from olivebuild.cache.tensor_locations import ByteRange
    from olivebuild.formats import imported
    from olivebuild.formats.safetensors import tensors_of
    from olivebuild.ml.data import end_tokens
    from olivebuild.ml.kinds.adapter import checked_config
    from olivebuild.ml.models.fetch import fetch
    from olivebuild.ml.models.tokenizer_files import found_in
    from olivebuild.ml.weights.adapter_config import QUANTISED

    # peft does not read it here, so that packages which its configuration names are not imported.
    folder = fetch(
        job,
        source,
        look=lambda folder: imported.check(folder, "adapter", job.where("source"), trust=True),
    )
    checked_config(job, folder)
    file = folder / "adapter_model.safetensors"
    weights = tuple(
        Weight(
            t.name, t.dtype, t.shape, "", t.end - t.start, ByteRange(file, t.start, t.end - t.start)
        )
        for t in tensors_of(file)
    )
    names = [folder / name for name in ("adapter_config.json", end_tokens.NAME, QUANTISED)]
    others = [(path.name, path) for path in names if path.is_file()] + found_in(folder)
    files = tuple(
        (name, hashing.of_file(path), ByteRange(path, 0, path.stat().st_size))
        for name, path in others
    )
    return Weights((Shard(file.name, b"", weights),), files)


def _take_along(job: Job, adapter: Weights, slots: Slots, fields: OnnxAdapterFields) -> None:
    """Write the ends, the tokenizer and the chat template that an adapter was trained with.

    Raises InputError for LoftQ's, and for a tokenizer that the base's embedding is too small for.
    """
    from olivebuild.ml.data import end_tokens
    from olivebuild.ml.models.tokenizer_files import check_room, is_tokenizer_file
    from olivebuild.ml.weights.adapter_config import QUANTISED, is_of_loftq
    from olivebuild.ml.weights.view import read_at

    field = "source" if fields.source else "adapter"
    if is_of_loftq(adapter.bytes_of(QUANTISED)):
        raise InputError(
            "the adapter is trained by LoftQ, which changes the base: it can't be kept apart",
            where=job.where(field),
            hint="merge it with onto: dequantised, and convert the merged model",
        )
    brought = [file for file in adapter.files if is_tokenizer_file(file[0])]
    check_room(slots.tokens, brought, job.where(field))
    for name, _, place in brought:
        (job.out / name).parent.mkdir(parents=True, exist_ok=True)
        (job.out / name).write_bytes(read_at(place, 0, place.size))
    if fields.stop:
        ends = end_tokens.of_adapter([], sorted(set(fields.stop)))
        (job.out / end_tokens.NAME).write_text(ends, "utf-8")
    elif adapter.bytes_of(end_tokens.NAME) is not None:
        config = adapter.file(end_tokens.NAME)
        ids = end_tokens.ids_of(config.get("eos_token_id"))
        texts = end_tokens.texts_of(config.get("stop_strings"))
        if ids or texts:
            (job.out / end_tokens.NAME).write_text(end_tokens.of_adapter(ids, texts), "utf-8")
