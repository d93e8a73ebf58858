"""Checks of a model before anything is made of it: no tensor is made up, no weight is NaN.

transformers gives a tensor that it does not find random numbers, and continues. Here its own
loading, with all the renaming and fusing that a class asks for, is given tensors that take no
memory (torch's meta device). What depends on the structure alone is proven once, and stored in
derived/ under a key of its own, so that it costs neither time nor an import the next time.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from olivebuild.cache.memo import Derived
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core import hashing
from olivebuild.core.errors import InputError, Where, first_line
from olivebuild.core.fs import trees
from olivebuild.core.host import installed
from olivebuild.core.values.typed import decode
from olivebuild.formats import imported
from olivebuild.formats.model_config import last_tokens, without_embedding
from olivebuild.formats.model_numbers import impossible_size, sizes_of
from olivebuild.formats.safetensors import tensors_of
from olivebuild.formats.weight_files import ignored_weights, model_files, name_in, weight_files
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.weights.lora import open_input
from olivebuild.ml.weights.view import Shard, Weight, Weights, write_files

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.cache.store import Store

VERSION = 1
READERS = (
    "adapter",
    "merged",
    "onnx",
    "moments",
    "scales",
    "benchmark-accuracy",
    "benchmark-check",
    "benchmark-latency",
)
"""The kinds that open a causal language model."""
WHOLE_READERS = ("merged", "onnx", "moments")
"""Those that may read tensors without loading the model, so that the values are checked here."""
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8",
    "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
PIECE = 64 << 20


class Opening(Struct, frozen=True):
    """The result of opening a structure.

    `unexpected` are tensors that the class has no place for, `tokens` those without a row in the
    embedding that stand for no text. `failure` is why it could not be opened so.
    """

    unexpected: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    failure: str = ""


def check_inputs(job: Job) -> None:
    """Open all models that an action reads; note the files that are left out. Raises InputError."""
    if job.action.kind not in READERS:
        return
    for role, source in job.action.inputs.items():
        if source.kind not in ("model", "merged"):
            continue
        trust, where = source.trust_remote_code, job.where(role)
        if source.folder:
            folder = Path(source.folder)
            if ignored := ignored_weights(folder):
                job.note(
                    f"{source.target}: {listed(ignored)} ignored: loaders read "
                    f"{listed(weight_files(folder).names)}"
                )
            imported.check(folder, source.kind, where, trust=trust)
        model = open_input(job.store, source)
        if job.action.kind not in WHOLE_READERS or is_finite(job.store, model, source.digest):
            check(job, model, source.target, where, trust=trust)
            continue
        with ThreadPoolExecutor(1) as pool:
            # What opens a structure for the first time imports for seconds, on one processor.
            names = pool.submit(not_finite_in, model)
            check(job, model, source.target, where, trust=trust)
            refuse_not_finite(names.result(), source.target, where)
        keep_finite(job.store, source.digest or model.model_digest())


def check_output(job: Job, folder: Path, *, trust: bool = False) -> None:
    """Open the model that a step has just made in `folder`, or found there. Raises InputError."""
    check(job, of_headers(folder, code=trust), job.action.target, job.where(), trust=trust)


def of_headers(folder: Path, *, code: bool = False) -> Weights:
    """Return a folder's model, whose tensors have no digests."""
    files = weight_files(folder)
    shards = []
    for name in files.names:
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
    others = tuple(
        (name_in(folder, p), hashing.of_file(p), ByteRange(p, 0, p.stat().st_size, lent=True))
        for p in model_files(folder, code=code)[1]
    )
    return Weights(tuple(shards), others, index=files.index)


def check(
    job: Job, model: Weights, target: str, where: Where | None, *, trust: bool = False
) -> None:
    """Raise InputError unless each tensor that the model's class expects is there, with its shape.

    Tensors that the class does not ask for are noted.
    """
    config = model.file("config.json")
    if not (architectures := config.get("architectures")) or not isinstance(architectures, list):
        hint = 'name the model\'s class there, for example "architectures": ["LlamaForCausalLM"]'
        raise InputError(f"{target}: config.json names no architectures", where=where, hint=hint)
    if "quantization_config" in config:
        # Such weights are opened by libraries of their own, some of which need a GPU: the same is
        # checked when they are loaded.
        return
    if impossible := impossible_size(
        config, lambda: sizes_of([w.shape for w in model.by_name.values()])
    ):
        raise InputError(f"{target}: {impossible.fact}", where=where, hint=impossible.hint)
    opening = _stored_opening(job, model, target, where, trust=trust)
    if opening.unexpected:
        names = listed(opening.unexpected)
        job.note(f"{target}: {names} ignored: {architectures[0]} has no such tensors")
    if opening.tokens:
        job.note(
            f"{target}: the tokens {listed(opening.tokens)} have no place in the embedding; texts "
            "that hold them fail"
        )
    if opening.failure:
        job.note(
            f"{target}: not opened without its weights, so what is missing is found when it is "
            f"loaded: {opening.failure}"
        )


def _stored_opening(
    job: Job, model: Weights, target: str, where: Where | None, *, trust: bool
) -> Opening:
    """Return the stored result for a model's structure, or open it and store the result.

    Raises InputError.
    """
    facts = sorted([w.name, w.dtype, list(w.shape)] for w in model.by_name.values())
    files = [[name, digest] for name, digest, _ in model.files if name != "generation_config.json"]
    key = hashing.of_json(["opened", VERSION, installed("transformers"), trust, facts, files])
    if stored := _read(job.store, key):
        return stored
    scratch = job.out.parent / "opened"
    scratch.mkdir(exist_ok=True)
    try:
        opening = _open(model, scratch, target, where, trust=trust)
    finally:
        trees.delete(scratch.parent, scratch)
    _write(job.store, key, opening)
    return opening


def _read(store: Store, key: str) -> Opening | None:
    text = Derived(store).read(key)
    return None if text is None else decode(text, Opening)


def _write(store: Store, key: str, opening: Opening) -> None:
    Derived(store).write(key, msgspec.json.encode(opening))


def _open(
    model: Weights, scratch: Path, target: str, where: Where | None, *, trust: bool
) -> Opening:
    """Open a model on torch's meta device. Raises InputError."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    write_files(model, scratch)
    try:
        config = AutoConfig.from_pretrained(scratch, local_files_only=True, trust_remote_code=trust)
        with torch.device("meta"):
            auto: Any = AutoModelForCausalLM
            kind = type(auto.from_config(config, trust_remote_code=trust))
    except Exception as e:  # noqa: BLE001
        # Configurations fail in as many ways as they can be wrong.
        hint = (
            "does the installed transformers know this model? A model with code of its own needs "
            "trust_remote_code: true"
        )
        reason = first_line(e).replace(str(scratch), "the model")
        raise InputError(
            f"{target}: transformers can't open the model: {reason}", where=where, hint=hint
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
        return Opening(failure=first_line(e))
    check_loaded(info, target, where)
    rows = opened.get_input_embeddings().weight.shape[0]
    tokens = check_tokens(model, rows, target, where)
    return Opening(tuple(sorted(info["unexpected_keys"])), tuple(tokens))


def check_loaded(info: dict[str, Any], target: str, where: Where | str | None) -> None:
    """Raise InputError for tensors that transformers made up (`output_loading_info`)."""
    named = f"{target}: " if target else ""
    if missing := sorted(info["missing_keys"]):
        extra = ""
        if info["unexpected_keys"]:
            extra = f"; {min(info['unexpected_keys'])} is there and has no place"
        fact = f"{named}the weights lack {listed(missing)}, which the model's class expects{extra}"
        raise InputError(
            fact,
            where=where,
            hint="transformers would fill in random numbers: is the download complete, and "
            "config.json that of these weights?",
        )
    if mismatched := sorted(info["mismatched_keys"], key=str):
        name, *shapes = mismatched[0]
        actual, expected = (list(shape) for shape in shapes[:2])
        fact = f"{named}{name} has the shape {actual}, where config.json makes it {expected}"
        raise InputError(fact, where=where, hint="is config.json that of these weights?")
    if errors := info.get("error_msgs"):
        raise InputError(
            f"{named}the weights don't fit the model's class: {str(errors[0])[:300]}",
            where=where,
            hint="is config.json that of these weights?",
        )


def check_tokens(model: Weights, rows: int, target: str, where: Where | None) -> list[str]:
    """Raise InputError for a tokenizer with tokens that have no row in the embedding.

    Return those without a row that stand for no text.
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
            "tokenizer that belongs to the model"
        )
        raise InputError(fact, where=where, hint=hint)
    return other


def check_finite(
    store: Store, model: Weights, digest: str, target: str, where: Where | None
) -> None:
    """Raise InputError for weights that are NaN or infinite; `digest` is the model's.

    All are read, once for each digest.
    """
    if is_finite(store, model, digest):
        return
    refuse_not_finite(not_finite_in(model), target, where)
    keep_finite(store, digest or model.model_digest())


def is_finite(store: Store, model: Weights, digest: str) -> bool:
    """Return whether a model's weights were found finite before; `digest` is the model's."""
    return _read(store, finite_key(digest or model.model_digest())) is not None


def not_finite_in(model: Weights) -> list[str]:
    """Return the names of a model's weights that are NaN or infinite. All are read."""
    pieces: list[tuple[Weight, int]] = []
    for weight in model.by_name.values():
        if weight.dtype in blockwise.INFINITY:
            pieces += [(weight, start) for start in range(0, weight.size, PIECE)]
    names = [w.name for w in hashing.in_threads(_not_finite, pieces) if w]
    return list(dict.fromkeys(names))


def refuse_not_finite(names: list[str], target: str, where: Where | None) -> None:
    """Raise InputError if there are names of weights that are NaN or infinite."""
    if names:
        raise InputError(
            f"{target}: {listed(names)} holds NaN or infinite numbers",
            where=where,
            hint="is the download complete, and did the training that made it go well?",
        )


def _not_finite(weight: Weight, start: int) -> Weight | None:
    """Return the weight if a piece of it is not finite."""
    piece = weight.read(start, min(PIECE, weight.size - start))
    return None if blockwise.is_finite(piece, weight.dtype) else weight


def keep_finite(store: Store, model: str) -> None:
    """Store that the model of this digest has finite weights, each of which was checked."""
    _write(store, finite_key(model), Opening())


def finite_key(model: str) -> str:
    """Return the key under which a model's weights are known to be finite."""
    return hashing.of_json(["finite", VERSION, model])


def listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are, for a message."""
    all_names = list(names)
    more = f" and {len(all_names) - 3} more" if len(all_names) > 3 else ""
    return ", ".join(all_names[:3]) + more
