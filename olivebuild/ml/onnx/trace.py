"""The skeleton of an ONNX model: the model builder is run once, without moving the weights, and
watched.

The builder (onnxruntime_genai/models/builders/base.py, 0.18.0) makes a float graph of lazy
initializers, quantises it as a
protobuf, and writes one data file. Here it sees the weights memory-mapped; each tensor that it
makes of them is recorded as
a recipe (ml/onnx/dispatch.py); when it comes to quantise, each such tensor is a hole in a sparse
file, and
the
quantiser's kernel does nothing. What remains is the graph and the layout of the data file. Then
every recipe is evaluated
and compared with the builder's own tensor, and our quantiser with ONNX Runtime's.

All that this relies on is looked at first; what is not as expected raises `NotProvenEqual`, and the
builder does the whole work.
"""

from __future__ import annotations

import contextlib
import inspect
import mmap
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch

from olivebuild.core.fs import trees
from olivebuild.ml.kernels import blockwise
from olivebuild.ml.onnx.assemble import CONSTANTS
from olivebuild.ml.onnx.builder import load
from olivebuild.ml.onnx.dispatch import DTYPES, Watcher
from olivebuild.ml.onnx.skeleton import (
    Algorithm,
    Quantised,
    Recipe,
    Skeleton,
    Slot,
    Source,
    View,
    rows_of,
)
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.view import Weight, Weights, write_files

TORCH: dict[str, torch.dtype] = {name: dtype for dtype, name in DTYPES.items()}
K_QUANT = "quant_tensor_k_quant_cuda"
"""ONNX Runtime's function for its k-quant, on any device."""
CACHES = ("cos_cache", "sin_cache")
"""Float tensors that the builder computes from the configuration alone."""
K_NAME = re.compile(r"_Q[48]G\d+$")
"""How the packed values of k-quant and rtn are called; those of the default algorithm have no block
in their names.
"""
HOLES = "holes"
SAMPLE = 64
"""Rows of each tensor on which our quantiser is compared with ONNX Runtime's."""


@dataclass(frozen=True)
class RecordedInitializer:
    """An initializer of the float graph: the builder's tensor, and the number format it is to
    have.
    """

    tensor: torch.Tensor
    dtype: torch.dtype


def trace(folder: Path, out: Path, weights: Weights, build: Callable[[], None]) -> Skeleton:
    """Run `build`, which calls the model builder from `folder` into `out`, watching it; `folder` is
    empty and for our use.

    Leaves in `out` what the model consists of beside its data file, and the constants. Raises
    NotProvenEqual.
    """
    import onnxruntime.quantization.matmul_nbits_quantizer as quantizer
    import onnxruntime.quantization.neural_compressor.weight_only as k_quantizer
    import onnxruntime_genai.models.builder  # noqa: F401

    # The builder puts its own folder on the path and imports its parts as packages of their own.
    base = sys.modules.get("builders.base")
    if base is None:
        raise NotProvenEqual("the model builder is not made of the parts that are known")
    _check_builder(base.Model, quantizer)
    write_files(weights, folder)
    watcher, made = Watcher(), dict[str, RecordedInitializer]()
    loader = Loader(weights, watcher)
    original_initializer, original_save = base.Model.make_initializer, base.Model.save_model

    def make_initializer(
        self: Any, tensor: Any, /, name: str, *, to: Any = None, raw: bool = False
    ) -> None:
        original_initializer(self, tensor, name, to=to, raw=raw)
        if isinstance(tensor, torch.Tensor) and watcher.knows(tensor):
            if raw:
                raise NotProvenEqual("a weight is stored as raw bytes")
            made[name] = RecordedInitializer(
                tensor.detach(), base.to_torch_dtype(to) if to is not None else tensor.dtype
            )

    def save_model(self: Any, out_dir: str) -> None:
        _replace_by_sparse_file(self.model, made, folder)
        original_save(self, out_dir)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(base, "AutoModelForCausalLM", loader))
        stack.enter_context(_replaced(base.Model, "make_initializer", make_initializer))
        stack.enter_context(_replaced(base.Model, "save_model", save_model))
        for kernel in ("quantize_matmul_4bits", "quantize_matmul_8bits"):
            stack.enter_context(_replaced(quantizer, kernel, lambda *_: None))
        stack.enter_context(_replaced(k_quantizer, K_QUANT, _stub_quantizer))
        # Layers that the builder makes get their weights afterwards; until then it need not draw
        # random ones.
        stack.enter_context(_replaced(torch.nn.Linear, "reset_parameters", lambda *_: None))
        # The quantiser looks for external data below the current folder.
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(watcher)
        build()
    if watcher.leak:
        raise NotProvenEqual(watcher.leak)
    if not loader.called:
        raise NotProvenEqual("the model builder loads this model in a way of its own")
    return _prove(_read_layout(out, watcher, made), made, weights, loader.forget)


def _check_builder(model: Any, quantizer: Any) -> None:
    """Raises NotProvenEqual when the private interface that this file leans on is not there."""
    expected = {
        "make_initializer": "(self, tensor, /, name, *, to=None, raw=False)",
        "save_model": "(self, out_dir)",
        "to_nbits": "(self)",
    }
    for name, signature in expected.items():
        function = getattr(model, name, None)
        found = str(_bare(inspect.signature(function))) if function else "nothing"
        if found != signature:
            raise NotProvenEqual(
                f"the model builder's {name} is not the one that is known: {found}"
            )
    for name in ("quantize_matmul_4bits", "quantize_matmul_8bits"):
        if not hasattr(quantizer, name):
            raise NotProvenEqual(f"ONNX Runtime's quantiser has no {name}")


def _bare(signature: inspect.Signature) -> inspect.Signature:
    parameters = [
        p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
    ]
    return inspect.Signature(parameters)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    if not hasattr(owner, name):
        raise NotProvenEqual(f"the model builder has no {name}")
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Loader:
    """Stands for transformers' AutoModelForCausalLM: gives the model with its weights mapped from
    the files, not read.
    """

    def __init__(self, weights: Weights, watcher: Watcher) -> None:
        self._weights = weights
        self._watcher = watcher
        self._maps: dict[str, mmap.mmap | None] = {}
        self.called = False

    def forget(self, names: set[str]) -> None:
        """Let go of the memory that holds these weights; they are read again when they are
        touched.
        """
        for name in names:
            if (view := self._maps.get(name)) and hasattr(view, "madvise"):
                view.madvise(mmap.MADV_DONTNEED)

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        """Raise NotProvenEqual where transformers itself might not take each weight as it is."""
        from transformers import AutoConfig, AutoModelForCausalLM

        options = {
            name: value for name, value in options.items() if name not in ("cache_dir", "token")
        }
        if options.pop("trust_remote_code", False) or options:
            raise NotProvenEqual("the model builder loads the model with options of its own")
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        weights = self._weights.by_name
        kinds = {w.dtype for w in weights.values()}
        if len(kinds) != 1 or not kinds <= set(TORCH):
            raise NotProvenEqual(f"weights of the types {', '.join(sorted(kinds))}")
        dtype = TORCH[kinds.pop()]
        if config.dtype not in (None, dtype):
            raise NotProvenEqual(f"config.json says {config.dtype}, the weights are {dtype}")
        model = _without_weights(AutoModelForCausalLM, config, dtype)
        if getattr(model, "_keep_in_fp32_modules", None) or getattr(
            model, "_keep_in_fp32_modules_strict", None
        ):
            raise NotProvenEqual("transformers keeps some of the weights in float32")
        mapped = {}
        for name, weight in weights.items():
            mapped[name], self._maps[name] = _map(weight, dtype)
            self._watcher.know(mapped[name], Source(name, DTYPES[dtype], weight.shape))
        left = model.load_state_dict(mapped, strict=False, assign=True)
        tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
        if left.unexpected_keys or set(left.missing_keys) - tied:
            raise NotProvenEqual(
                "transformers gives the weights other names "
                f"({[*left.unexpected_keys, *left.missing_keys][0]})"
            )
        model.tie_weights()
        if any(p.device.type == "meta" for p in (*model.parameters(), *model.buffers())):
            raise NotProvenEqual("transformers makes weights that the files don't hold")
        self.called = True
        return model.eval()


def _without_weights(auto: Any, config: Any, dtype: torch.dtype) -> Any:
    """The model with its buffers, and parameters that take no memory."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return auto.from_config(config, dtype=dtype)


def _map(weight: Weight, dtype: torch.dtype) -> tuple[torch.Tensor, mmap.mmap | None]:
    """A weight as a tensor whose pages are read when they are touched, and never written; and the
    mapping that it lies in.
    """
    place = weight.place
    if not weight.size:
        return torch.empty(weight.shape, dtype=dtype), None
    start = place.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with open(place.path, "rb") as f:
        view = mmap.mmap(
            f.fileno(), place.offset - start + place.size, offset=start, access=mmap.ACCESS_COPY
        )
    count = place.size // dtype.itemsize
    return torch.frombuffer(view, dtype=dtype, count=count, offset=place.offset - start).reshape(
        weight.shape
    ), view


def _stub_quantizer(
    data: np.ndarray, _bits: int, block: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stands for ONNX Runtime's k-quant: levels, scales and zero points of the right shapes."""
    count = data.size // block
    return np.zeros((count, block), np.uint8), np.ones((count, 1)), np.zeros((count, 1), np.uint8)


def _replace_by_sparse_file(model: Any, made: dict[str, RecordedInitializer], folder: Path) -> None:
    """Replace each tensor that came from the weights by as many bytes of a file that has none."""
    largest = 0
    for value in model.graph.initializers.values():
        if value.name in made:
            tensor = value.const_value
            largest = max(largest, tensor.nbytes)
            value.const_value = onnx_ir.ExternalTensor(
                HOLES,
                0,
                tensor.nbytes,
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=folder,
            )
    with open(folder / HOLES, "wb") as f:
        f.truncate(largest)


def _read_layout(out: Path, watcher: Watcher, made: dict[str, RecordedInitializer]) -> Skeleton:
    """Match what the builder wrote with the recipes.

    Constants are copied to a file of their own, and the data file goes.
    """
    file = out / "model.onnx"
    if not file.is_file():
        raise NotProvenEqual("the model builder did not write model.onnx")
    graph = onnx.load(file, load_external_data=False).graph
    quantised = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            attributes = {a.name: a.i for a in node.attribute}
            algorithm: Algorithm = "k_quant" if K_NAME.search(node.input[1]) else "default"
            quantised[_origin(node.input[1], made)[0]] = (
                attributes,
                len(node.input) > 3 and bool(node.input[3]),
                algorithm,
            )
    data, tensors, slots = file.with_name("model.onnx.data"), list[Recipe](), list[Slot]()
    numbers: dict[str, int] = {}
    with open(data, "rb") as source, open(out / CONSTANTS, "wb") as constants:
        for tensor in graph.initializer:
            external = {e.key: e.value for e in tensor.external_data}
            if not external:
                if tensor.name in made:
                    raise NotProvenEqual(f"{tensor.name} is kept inside the graph")
                continue
            offset, size = int(external.get("offset", 0)), int(external["length"])
            origin, part = _origin(tensor.name, made)
            if origin is None:
                if (
                    tensor.data_type in (1, 10, 16)
                    and np.prod(tensor.dims) >= SAMPLE
                    and not any(c in tensor.name for c in CACHES)
                ):
                    raise NotProvenEqual(f"nothing tells where {tensor.name} comes from")
                source.seek(offset)
                slots.append(Slot(tensor.name, offset, size, -1, constants.tell()))
                constants.write(source.read(size))
                continue
            if origin not in numbers:
                numbers[origin] = len(tensors)
                tensors.append(_recipe(origin, made[origin], watcher, quantised.get(origin)))
            recipe = tensors[numbers[origin]]
            if (part is None) != (recipe.quantised is None):
                raise NotProvenEqual(f"{tensor.name} is quantised in an unknown way")
            slots.append(Slot(tensor.name, offset, size, numbers[origin], part or 0))
    size = data.stat().st_size
    data.unlink()
    return Skeleton(data.name, size, tuple(tensors), tuple(slots))


def _origin(name: str, made: dict[str, RecordedInitializer]) -> tuple[str | None, int | None]:
    """The float tensor behind an initializer, and which part of its quantised form it is."""
    if name in made:
        return name, None
    bare = K_NAME.sub("", name)
    for suffix, part in (
        ("_Q4", 0),
        ("_Q8", 0),
        ("_scales", 1),
        ("_scale", 1),
        ("_zero_points", 2),
        ("_zp", 2),
    ):
        if bare.removesuffix(suffix) in made:
            return bare.removesuffix(suffix), 0 if bare != name else part
    return None, None


def _recipe(
    name: str,
    origin: RecordedInitializer,
    watcher: Watcher,
    found: tuple[dict[str, int], bool, Algorithm] | None,
) -> Recipe:
    view = watcher.view(origin.tensor)
    dtype = DTYPES.get(origin.dtype)
    if dtype is None:
        raise NotProvenEqual(f"{name} is of the type {origin.dtype}")
    if found is None:
        return Recipe(view, dtype)
    attributes, has_zeros, algorithm = found
    bits, block, k, n = (attributes[a] for a in ("bits", "block_size", "K", "N"))
    if view.shape != (k, n) or k % block:
        raise NotProvenEqual(f"{name} [{k}, {n}] in {dtype} has no kernel for blocks of {block}")
    try:
        return Recipe(view, dtype, Quantised(bits, block, not has_zeros, dtype, algorithm))
    except ValueError:
        raise NotProvenEqual(f"{name} has {bits} bits in blocks of {block}") from None


def _prove(
    skeleton: Skeleton,
    made: dict[str, RecordedInitializer],
    weights: Weights,
    forget: Callable[[set[str]], None],
) -> Skeleton:
    """Evaluate every recipe and compare it with the builder's tensor; compare our quantiser with
    ONNX Runtime's on some rows of each.
    """
    by_name = weights.by_name
    names = {slot.tensor: slot.name for slot in skeleton.slots if slot.tensor >= 0}
    end = 0
    for slot in sorted(skeleton.slots, key=lambda s: s.offset):
        if slot.offset < end:
            raise NotProvenEqual(f"{slot.name} shares its bytes with another tensor")
        end = slot.offset + slot.size
    if end != skeleton.size:
        raise NotProvenEqual("the data file holds more than its tensors")
    for number, recipe in enumerate(skeleton.tensors):
        origin = made[_origin(names[number], made)[0] or ""]
        tensor = origin.tensor.T if recipe.quantised else origin.tensor
        view = recipe.view.transposed if recipe.quantised else recipe.view
        if not view.shape:
            tensor, view = tensor.reshape(1), View(view.of, view.offset, (1,), (1,))
        rows = rows_of(view, by_name)
        for start in range(0, view.shape[0], blockwise.ROWS):
            count = min(blockwise.ROWS, view.shape[0] - start)
            theirs = (
                tensor[start : start + count]
                .to(origin.dtype)
                .contiguous()
                .flatten()
                .view(torch.uint8)
                .numpy()
            )
            wide = blockwise.widen(np.ascontiguousarray(rows(start, count)), view.of.dtype)
            ours = blockwise.narrow(wide, recipe.dtype).reshape(-1).view(np.uint8)
            if not np.array_equal(theirs, ours):
                raise NotProvenEqual(f"{names[number]} did not come out as the builder's")
        if recipe.quantised:
            _compare_kernels(names[number], tensor[:SAMPLE].to(origin.dtype), recipe.quantised)
        forget(recipe.sources())
    return skeleton


def _compare_kernels(name: str, rows: torch.Tensor, options: Quantised) -> None:
    given = np.ascontiguousarray((rows.float() if options.scales == "BF16" else rows).T.numpy())
    packed, scales, zeros = (_by_k_quant if options.algorithm == "k_quant" else _by_default)(
        given, options
    )
    theirs = (
        packed,
        blockwise.narrow(scales, "BF16") if options.scales == "BF16" else scales,
        zeros,
    )
    ours = options.kernel(rows.float().numpy())
    for mine, other in zip(ours, theirs, strict=True):
        if mine.size and not np.array_equal(
            mine.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)
        ):
            raise NotProvenEqual(f"{name} is quantised in another way than known here")


def _by_default(given: np.ndarray, options: Quantised) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=options.block, is_symmetric=options.symmetric, bits=options.bits
    )
    packed, scales, zeros = DefaultWeightOnlyQuantizer(config).qbits_block_quant(given)
    return packed, scales, zeros


def _by_k_quant(given: np.ndarray, options: Quantised) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import onnxruntime.quantization.neural_compressor.weight_only as k_quantizer

    with np.errstate(all="ignore"):
        levels, scales, zeros = getattr(k_quantizer, K_QUANT)(given.T, options.bits, options.block)
    parts = [levels.astype(np.uint8), zeros.reshape(given.shape[1], -1)]
    levels, zeros = (
        part if options.bits == 8 else part[:, ::2] | part[:, 1::2] << 4 for part in parts
    )
    return levels, scales.reshape(given.shape[1], -1).astype(given.dtype), zeros


def load_once(out: Path, skeleton: Skeleton, scratch: Path) -> None:
    """Load the model with zeros for weights, as the runtime would.

    Raises RuntimeError when the runtime refuses the graph.
    """
    scratch.mkdir()
    for path in out.iterdir():
        shutil.copyfile(path, scratch / path.name)
    constants = (out / CONSTANTS).read_bytes()
    with open(scratch / skeleton.data, "wb") as f:
        for slot in skeleton.slots:
            if slot.tensor < 0:
                f.seek(slot.offset)
                f.write(constants[slot.part : slot.part + slot.size])
        f.truncate(skeleton.size)
    try:
        load(scratch)
    finally:
        trees.delete(scratch.parent, scratch)
