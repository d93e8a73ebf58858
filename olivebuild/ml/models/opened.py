"""A model opened the way its users will, before anything is made of it: no tensor is made up, and
no weight is NaN or infinite.

transformers gives a tensor that it does not find random numbers, and goes on. Here its own loading,
with all the renaming and fusing that a
class asks for, is given tensors that take no memory (torch's meta device). What a structure alone
decides is proven once, and kept in
derived/ under a key of its own, so that it costs neither time nor an import the next time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from olivebuild.cache.memo import Derived
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core import hashing
from olivebuild.core.errors import InputError, Where, first_line
from olivebuild.core.fs import trees
from olivebuild.core.host import installed
from olivebuild.formats import imported
from olivebuild.formats.model_config import last_tokens, without_embedding
from olivebuild.formats.model_numbers import sizes_of, too_many
from olivebuild.formats.safetensors import (
    ignored_weights,
    model_files,
    name_in,
    tensors_of,
    weight_files,
)
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.weights.view import Shard, Weight, Weights, write_files

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.cache.store import Store

VERSION = 1
READERS = (
    "adapter",
    "merged",
    "onnx",
    "benchmark-accuracy",
    "benchmark-check",
    "benchmark-latency",
)
"""The kinds that open a causal language model."""
WHOLE_READERS = ("merged", "onnx")
"""Those that may take tensors as they lie, without loading the model: so the values are looked at
here.
"""
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8",
    "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
PIECE = 64 << 20


class Found(Struct, frozen=True):
    """What opening a structure showed: names of tensors that have no place in the class, odd
    tokens, or why it could not be opened so.
    """

    unexpected: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    because: str = ""


def check_inputs(job: Job) -> None:
    """Open all models that an action reads. Raises InputError, and tells what is left out."""
    if job.action.kind not in READERS:
        return
    from olivebuild.ml.weights.lora import open_input

    for role, given in job.action.inputs.items():
        if given.kind not in ("model", "merged"):
            continue
        if given.folder and (ignored := ignored_weights(Path(given.folder))):
            job.note(
                f"{given.target}: {listed(ignored)} ignored: loaders read "
                f"{listed(weight_files(Path(given.folder)).names)}"
            )
        if given.folder:
            imported.check(
                Path(given.folder), given.kind, job.where(role), trust=given.trust_remote_code
            )
        model = open_input(job.store, given)
        check(job, model, given.target, job.where(role), trust=given.trust_remote_code)
        if job.action.kind in WHOLE_READERS:
            check_finite(job.store, model, given.digest, given.target, job.where(role))


def check_output(job: Job, folder: Path, *, trust: bool = False) -> None:
    """Open the model that a step has just made in `folder`, or found there. Raises InputError."""
    check(job, of_headers(folder, code=trust), job.action.target, job.where(), trust=trust)


def of_headers(folder: Path, *, code: bool = False) -> Weights:
    """A folder's model whose tensors have no digests."""
    found = weight_files(folder)
    shards = []
    for name in found.names:
        path = folder / name
        weights = [
            Weight(
                t.name,
                t.dtype,
                t.shape,
                "",
                t.end - t.start,
                ByteRange(path, t.start, t.end - t.start, lent=True),
            )
            for t in tensors_of(path)
        ]
        shards.append(Shard(name, b"", tuple(weights)))
    others = model_files(folder, code=code)[1]
    files = tuple(
        (name_in(folder, p), hashing.of_file(p), ByteRange(p, 0, p.stat().st_size, lent=True))
        for p in others
    )
    return Weights(tuple(shards), files, index=found.index)


def check(
    job: Job, model: Weights, target: str, where: Where | None, *, trust: bool = False
) -> None:
    """Raises InputError unless each tensor that the model's class expects is there, with its shape;
    notes what no class asks for.
    """
    config = model.file("config.json")
    if not (architectures := config.get("architectures")) or not isinstance(architectures, list):
        hint = 'name the model\'s class there, for example "architectures": ["LlamaForCausalLM"]'
        raise InputError(f"{target}: config.json names no architectures", where=where, hint=hint)
    if "quantization_config" in config:
        # Such weights are opened by libraries of their own, some of which need a GPU: whoever loads
        # them looks at the same facts.
        return
    if impossible := too_many(config, lambda: sizes_of([w.shape for w in model.by_name.values()])):
        raise InputError(f"{target}: {impossible.fact}", where=where, hint=impossible.hint)
    facts = sorted([w.name, w.dtype, list(w.shape)] for w in model.by_name.values())
    files = [[name, found] for name, found, _ in model.files if name != "generation_config.json"]
    key = hashing.of_json(["opened", VERSION, installed("transformers"), trust, facts, files])
    found = _known(job.store, key)
    if not found:
        scratch = job.out.parent / "opened"
        scratch.mkdir(exist_ok=True)
        try:
            found = _open(model, scratch, target, where, trust=trust)
        finally:
            trees.delete(scratch.parent, scratch)
        _keep(job.store, key, found)
    if found.unexpected:
        job.note(
            f"{target}: {listed(found.unexpected)} ignored: {architectures[0]} has no such tensors"
        )
    if found.tokens:
        job.note(
            f"{target}: the tokens {listed(found.tokens)} have no place in the embedding; texts "
            "that hold them fail"
        )
    if found.because:
        job.note(
            f"{target}: not opened without its weights, so what is missing is found when it is "
            f"loaded: {found.because}"
        )


def _known(store: Store, key: str) -> Found | None:
    import msgspec

    known = Derived(store).read(key)
    return None if known is None else msgspec.json.decode(known, type=Found)


def _keep(store: Store, key: str, found: Found) -> None:
    import msgspec

    Derived(store).write(key, msgspec.json.encode(found))


def _open(model: Weights, scratch: Path, target: str, where: Where | None, *, trust: bool) -> Found:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    write_files(model, scratch)
    try:
        config = AutoConfig.from_pretrained(scratch, local_files_only=True, trust_remote_code=trust)
        with torch.device("meta"):
            auto: Any = AutoModelForCausalLM
            kind = type(auto.from_config(config, trust_remote_code=trust))
    except Exception as e:  # noqa: BLE001
        # What configurations may hold fails in as many ways.
        hint = (
            "does the installed transformers know this model? A model with code of its own needs "
            "trust_remote_code: true"
        )
        told = first_line(e).replace(str(scratch), "the model")
        raise InputError(
            f"{target}: transformers can't open the model: {told}", where=where, hint=hint
        ) from None
    state = {
        w.name: torch.empty(
            w.shape, dtype=getattr(torch, DTYPES.get(w.dtype, "uint8")), device="meta"
        )
        for w in model.by_name.values()
    }
    options: dict[str, Any] = {
        "config": config,
        "state_dict": state,
        "device_map": {"": "meta"},
        "ignore_mismatched_sizes": True,
    }
    try:
        opened, info = kind.from_pretrained(None, output_loading_info=True, **options)
    except Exception as e:  # noqa: BLE001
        # Model classes raise errors of many types; the first line is the reason.
        return Found(because=first_line(e))
    check_loaded(info, target, where)
    rows = opened.get_input_embeddings().weight.shape[0]
    tokens = check_tokens(model, rows, target, where)
    return Found(tuple(sorted(info["unexpected_keys"])), tuple(tokens))


def check_loaded(info: dict[str, Any], target: str, where: Where | str | None) -> None:
    """Raises InputError for what transformers tells that it made up (`output_loading_info`)."""
    named = f"{target}: " if target else ""
    if missing := sorted(info["missing_keys"]):
        odd = (
            f"; {sorted(info['unexpected_keys'])[0]} is there and has no place"
            if info["unexpected_keys"]
            else ""
        )
        fact = f"{named}the weights lack {listed(missing)}, which the model's class expects{odd}"
        raise InputError(
            fact,
            where=where,
            hint="transformers would fill in random numbers: is the download complete, and "
            "config.json "
            "that of these weights?",
        )
    if odd_shapes := sorted(info["mismatched_keys"], key=str):
        name, *shapes = odd_shapes[0]
        is_there, wanted = (list(shape) for shape in shapes[:2])
        fact = f"{named}{name} has the shape {is_there}, where config.json makes it {wanted}"
        raise InputError(fact, where=where, hint="is config.json that of these weights?")
    if errors := info.get("error_msgs"):
        raise InputError(
            f"{named}the weights don't fit the model's class: {str(errors[0])[:300]}",
            where=where,
            hint="is config.json that of these weights?",
        )


def check_tokens(model: Weights, rows: int, target: str, where: Where | None) -> list[str]:
    """Raises InputError for a tokenizer with tokens that have no row in the embedding.

    Returns those that stand for what is no text.
    """
    last = last_tokens(model.bytes_of("tokenizer.json") or b"")
    wrong, other = without_embedding(
        last,
        model.file("tokenizer_config.json") if model.bytes_of("tokenizer_config.json") else {},
        rows,
    )
    if wrong:
        fact = (
            f"{target}: the tokenizer has {last[0][0] + 1} tokens, the model's embedding {rows}; "
            f"{wrong[0]!r} has no place"
        )
        hint = (
            "give the embedding a row for each token (resize_token_embeddings), or take the "
            "tokenizer "
            "that belongs to the model"
        )
        raise InputError(fact, where=where, hint=hint)
    return other


def check_finite(
    store: Store, model: Weights, found: str, target: str, where: Where | None
) -> None:
    """Raises InputError for weights that are NaN or infinite, of the model of the digest `found`.

    All are read, once.
    """
    key = finite_key(found or model.model_digest())
    if _known(store, key):
        return
    pieces = [
        (w, start)
        for w in model.by_name.values()
        if w.dtype in blockwise.INFINITY
        for start in range(0, w.size, PIECE)
    ]
    if odd := [w.name for w in hashing.in_threads(_odd, pieces) if w]:
        fact = f"{target}: {listed(dict.fromkeys(odd))} holds NaN or infinite numbers"
        raise InputError(
            fact,
            where=where,
            hint="is the download complete, and did the training that made it go well?",
        )
    _keep(store, key, Found())


def _odd(weight: Weight, start: int) -> Weight | None:
    return (
        None
        if blockwise.is_finite(weight.read(start, min(PIECE, weight.size - start)), weight.dtype)
        else weight
    )


def keep_finite(store: Store, model: str) -> None:
    """Remember that the model of this digest was made of finite weights, each of which was looked
    at.
    """
    _keep(store, finite_key(model), Found())


def finite_key(model: str) -> str:
    return hashing.of_json(["finite", VERSION, model])


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    given = list(names)
    return ", ".join(given[:3]) + (f" and {len(given) - 3} more" if len(given) > 3 else "")
