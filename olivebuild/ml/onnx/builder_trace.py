"""The skeleton of an ONNX model, traced from one watched run of the model builder.

The builder (onnxruntime_genai/models/builders/base.py, 0.18.0) makes a float graph of lazy
initializers, quantises it as a protobuf, and writes one data file. Here it sees the weights
memory-mapped, and each tensor that it makes of them is recorded as a recipe
(ml/onnx/op_recorder.py). Before it quantises, each such tensor is replaced by a range of a sparse
file, and the kernel of the quantiser does nothing. What remains is the graph and the layout of the
data file (ml/onnx/layout.py). Then every recipe is evaluated and compared with the builder's own
tensor, and our quantiser with ONNX Runtime's (ml/onnx/equality.py).

All private parts that this relies on are checked first (ml/onnx/patches.py). Any other than those
known raise `NotProvenEqual`, and the builder does the whole work.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from olivebuild.core.fs import trees
from olivebuild.core.fs.small_files import read_json
from olivebuild.ml.models.layered import without_weights
from olivebuild.ml.onnx.assemble import CONSTANTS
from olivebuild.ml.onnx.builder import K_QUANT, load
from olivebuild.ml.onnx.equality import prove
from olivebuild.ml.onnx.layout import (
    Holes,
    Recorded,
    RecordedInitializer,
    read_layout,
)
from olivebuild.ml.onnx.op_recorder import DTYPES, TORCH, Escapes, OpRecorder
from olivebuild.ml.onnx.patches import BuilderChanged, Patch, applied
from olivebuild.ml.onnx.skeleton import Skeleton, Source
from olivebuild.ml.weights.errors import NotProvenEqual
from olivebuild.ml.weights.view import Weight, Weights, write_files


def trace(folder: Path, out: Path, weights: Weights, build: Callable[[], None]) -> Skeleton:
    """Return the skeleton of what `build` makes with the builder, from `folder` into `out`.

    `folder` is empty, and for our use. Leaves in `out` what the model consists of beside its data
    file, and the constants. Raises NotProvenEqual.
    """
    write_files(weights, folder)
    watcher, recorded = OpRecorder(), Recorded()
    loader = Loader(weights, watcher)
    with contextlib.ExitStack() as stack:
        stack.enter_context(applied(_patches(folder, loader, watcher, recorded)))
        # The quantiser looks for external data below the current folder.
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(watcher)
        stack.enter_context(Escapes(watcher))
        build()
    if watcher.leak:
        raise NotProvenEqual(watcher.leak)
    if not loader.called:
        raise NotProvenEqual("the model builder loads this model in a way of its own")
    return prove(read_layout(out, watcher, recorded), recorded, weights, watcher, loader.forget)


def _patches(folder: Path, loader: Loader, watcher: OpRecorder, recorded: Recorded) -> list[Patch]:
    """The private parts of the builder, ONNX Runtime and torch that a traced run leans on."""
    import onnx_ir
    import onnxruntime.quantization.matmul_nbits_quantizer as quantizer
    import onnxruntime.quantization.neural_compressor.weight_only as k_quantizer
    import onnxruntime_genai.models.builder  # noqa: F401

    # The builder puts its own folder on the path and imports its parts as packages of their own.
    base = sys.modules.get("builders.base")
    if base is None:
        raise NotProvenEqual("the model builder is not made of the parts that are known")
    make_initializer = getattr(base.Model, "make_initializer", None)
    save_model = getattr(base.Model, "save_model", None)

    def record_initializer(
        self: Any, tensor: Any, /, name: str, *, to: Any = None, raw: bool = False
    ) -> None:
        make_initializer(self, tensor, name, to=to, raw=raw)  # type: ignore[misc]
        if isinstance(tensor, torch.Tensor) and watcher.knows(tensor):
            if raw:
                raise NotProvenEqual("a weight is stored as raw bytes")
            dtype = base.to_torch_dtype(to) if to is not None else tensor.dtype
            recorded[name] = RecordedInitializer(tensor.detach(), dtype)

    holes, serialize = Holes(folder), onnx_ir.serde.serialize_tensor
    write = onnx_ir.ExternalTensor.tofile

    def serialize_hole(tensor: Any) -> Any:
        return holes.as_proto(tensor) or serialize(tensor)

    def write_hole(self: Any, file: Any) -> None:
        if not holes.skip(self, file):
            write(self, file)

    def save_sparse(self: Any, out_dir: str) -> None:
        holes.replace(self.model, recorded)
        save_model(self, out_dir)  # type: ignore[misc]

    ort = "ONNX Runtime's quantiser"
    return [
        Patch(
            owner=base.Model,
            name="make_initializer",
            replacement=record_initializer,
            signature="(self, tensor, /, name, *, to=None, raw=False)",
        ),
        Patch(
            owner=base.Model,
            name="save_model",
            replacement=save_sparse,
            signature="(self, out_dir)",
        ),
        Patch(owner=base.Model, name="to_nbits", signature="(self)"),
        Patch(owner=base, name="to_torch_dtype"),
        Patch(owner=base, name="AutoModelForCausalLM", replacement=loader),
        Patch(owner=quantizer, name="quantize_matmul_4bits", replacement=holes.leave, library=ort),
        Patch(owner=quantizer, name="quantize_matmul_8bits", replacement=holes.leave, library=ort),
        Patch(owner=k_quantizer, name=K_QUANT, replacement=_stub_quantizer, library=ort),
        Patch(
            owner=onnx_ir.serde,
            name="serialize_tensor",
            replacement=serialize_hole,
            signature="(tensor)",
            library="onnx-ir",
        ),
        Patch(
            owner=onnx_ir.ExternalTensor,
            name="tofile",
            replacement=write_hole,
            signature="(self, file)",
            library="onnx-ir",
        ),
        # Layers that the builder makes get their weights afterwards; until then it need not draw
        # random ones.
        Patch(owner=torch.nn.Linear, name="reset_parameters", replacement=_skip, library="torch"),
    ]


def _skip(*_: Any) -> None:
    """Do nothing, in the place of a function whose result is not looked at."""


def _stub_quantizer(
    data: np.ndarray, _bits: int, block: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return levels, scales and zero points of the right shapes, for ONNX Runtime's k-quant."""
    count = data.size // block
    return np.zeros((count, block), np.uint8), np.ones((count, 1)), np.zeros((count, 1), np.uint8)


class Loader:
    """A stand-in for transformers' AutoModelForCausalLM: the weights are mapped, not read."""

    def __init__(self, weights: Weights, watcher: OpRecorder) -> None:
        self._weights = weights
        self._watcher = watcher
        self._maps: dict[str, mmap.mmap | None] = {}
        self.called = False

    def forget(self, names: set[str]) -> None:
        """Free the memory that holds these weights; they are read again when they are touched."""
        for name in names:
            if (view := self._maps.get(name)) and hasattr(view, "madvise"):
                view.madvise(mmap.MADV_DONTNEED)

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        """Return the model in evaluation mode, as the class method of that name does.

        Raises NotProvenEqual where transformers itself might not take each weight as it is.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        if options.keys() - {"cache_dir", "token", "trust_remote_code"} or options.get(
            "trust_remote_code"
        ):
            raise NotProvenEqual("the model builder loads the model with options of its own")
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        dtype = self._dtype(config)
        model = without_weights(AutoModelForCausalLM, config, dtype)
        kept = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
        if any(getattr(model, name, None) for name in kept):
            raise NotProvenEqual("transformers keeps some of the weights in float32")
        self._give_weights(model, config, dtype)
        self.called = True
        return model.eval()

    def _dtype(self, config: Any) -> torch.dtype:
        """The one dtype of all weights. Raises NotProvenEqual."""
        dtypes = {w.dtype for w in self._weights.by_name.values()}
        dtype = next((d for name, d in TORCH.items() if dtypes == {name}), None)
        if dtype is None:
            raise NotProvenEqual(f"weights of the types {', '.join(sorted(dtypes))}")
        if config.dtype not in (None, dtype):
            raise NotProvenEqual(f"config.json says {config.dtype}, the weights are {dtype}")
        return dtype

    def _give_weights(self, model: Any, config: Any, dtype: torch.dtype) -> None:
        """Give a model without weights the mapped ones. Raises NotProvenEqual."""
        mapped = {}
        for name, weight in self._weights.by_name.items():
            mapped[name], self._maps[name] = _map(weight, dtype)
            self._watcher.know(mapped[name], Source(name, DTYPES[dtype], weight.shape))
        keys = model.load_state_dict(mapped, strict=False, assign=True)
        tied = getattr(model, "all_tied_weights_keys", None)
        if tied is None:
            raise BuilderChanged("transformers does not tell which weights are tied")
        optional = set(tied) if config.tie_word_embeddings else set()
        if keys.unexpected_keys or set(keys.missing_keys) - optional:
            raise NotProvenEqual(
                "transformers gives the weights other names "
                f"({[*keys.unexpected_keys, *keys.missing_keys][0]})"
            )
        model.tie_weights()
        if any(p.device.type == "meta" for p in (*model.parameters(), *model.buffers())):
            raise NotProvenEqual("transformers makes weights that the files don't hold")


def _map(weight: Weight, dtype: torch.dtype) -> tuple[torch.Tensor, mmap.mmap | None]:
    """Return a weight as a tensor, and the mapping that it lies in; None for an empty one.

    Pages are read when they are touched, and never written.
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


def load_once(out: Path, skeleton: Skeleton, scratch: Path) -> None:
    """Load the model with zeros for weights, as the runtime would, but in their stored order.

    Kernels that lay weights out anew take longer than all the rest, and were tried on the
    miniature. Raises RuntimeError when the runtime refuses the graph.
    """
    scratch.mkdir()
    for path in out.iterdir():
        shutil.copyfile(path, scratch / path.name)
    _disable_prepacking(scratch / "genai_config.json")
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


def _disable_prepacking(file: Path) -> None:
    """Let the runtime keep weights as they are, in each part of a model that names its options.

    https://onnxruntime.ai/docs/api/c/ (kOrtSessionOptionsConfigDisablePrepacking)
    """
    config = read_json(file)
    for part in config["model"].values():
        if isinstance(part, dict) and isinstance(options := part.get("session_options"), dict):
            options["session.disable_prepacking"] = "1"
    file.write_text(json.dumps(config), "utf-8")
