"""An ONNX model tried in onnxruntime-genai: its logits, and their distance from the source's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from olivebuild.core.errors import first_line
from olivebuild.core.fs.small_files import read_json
from olivebuild.ml.kernels.blockwise import is_finite


@dataclass(frozen=True)
class Difference:
    """A difference of logits, in units of the right ones' standard deviation.

    `spread` is the largest one, `rms` the root mean square; `flips` is how often the likeliest
    token is another one though it leads by more than `spread`.
    """

    spread: float
    rms: float
    flips: float = 0.0

    def beyond(self, limit: Difference) -> str:
        """Return what is beyond a limit, or ""."""
        if not np.isfinite(self.spread):
            return "logits are not finite"
        if self.spread > limit.spread:
            return (
                f"logits differ by {self.spread:.2g} of their spread, and rounding explains "
                f"{limit.spread:.2g}"
            )
        if self.rms > limit.rms:
            return (
                f"logits differ by {self.rms:.2g} of their spread on average, and {limit.rms:.2g} "
                "is the most that is explained"
            )
        return ""


VERSION = 3
"""Raise it for other miniatures (ml/onnx/miniature.py), more that is tried, or other limits."""
ANY = float("inf")
LIMITS = {
    "fp32": Difference(1e-4, 1e-4),
    "int8": Difference(ANY, 0.35),
    "int4": Difference(ANY, 1.0),
}
"""The differences that each precision that runs on a processor explains.

Logits of an unrelated model differ by 1.4 on average.
"""


def compare(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> Difference:
    """Return the difference of logits, [vocabulary] for each token."""
    a = np.stack(expected)
    b = np.stack([row[: len(right)] for row, right in zip(actual, expected, strict=True)])
    spread = float(a.std()) or 1.0
    wrong = np.abs(b - a)
    largest = float(wrong.max()) / spread
    order = np.sort(a, -1)
    led = (order[:, -1] - order[:, -2]) / spread > largest
    flips = float(((a.argmax(-1) != b.argmax(-1)) & led).mean())
    return Difference(
        largest, float(np.sqrt(np.square(wrong, dtype=np.float64).mean())) / spread, flips
    )


def capacity(config: dict[str, Any], wanted: int) -> int:
    """Return the `max_length` to give the runtime for `wanted` tokens.

    Where layers keep a window alone, the runtime refuses to keep less than that.
    """
    model = config["model"]
    window = model["decoder"].get("sliding_window") or {}
    least = int(window.get("window_size") or 0) if window.get("layers") else 0
    return min(int(model["context_length"]), max(wanted, least))


@dataclass(frozen=True)
class Proof:
    """The result of a comparison with transformers.

    Beyond `length` the runtime fails or computes something else, for the reason `fault`; 0 where
    there is no such length. `wrong` is what is wrong at any length, or "". `untried` is why nothing
    was compared.
    """

    length: int = 0
    fault: str = ""
    wrong: str = ""
    broken: bool = False
    """It is wrong by so much that no number format explains it."""
    inexact: bool = False
    """Not even a miniature in float32 comes out to the last digits."""
    untried: str = ""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(text: bytes) -> Proof:
        """Read a proof. Raises ValueError."""
        try:
            return Proof(**json.loads(text))
        except TypeError as e:
            raise ValueError(str(e)) from None


class Runner:
    """An ONNX folder that was made here, loaded.

    Raises RuntimeError when the runtime refuses it.
    """

    def __init__(self, folder: Path) -> None:
        from olivebuild.ml.models.genai import open_model

        self.config = read_json(folder / "genai_config.json")
        self._model = open_model(folder, trust=True)

    def logits(self, ids: list[int], prompt: int) -> list[np.ndarray]:
        """Return logits of the first `prompt` tokens, read at once, and of the others, one by one.

        Some graphs give those of the last token of a prompt only.
        """
        import onnxruntime_genai as og

        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=capacity(self.config, len(ids) + 1), do_sample=False)
        generator = og.Generator(self._model, params)
        logits: list[np.ndarray] = []
        for part in (ids[:prompt], *([token] for token in ids[prompt:])):
            generator.append_tokens(np.array(part, dtype=np.int32))
            logits += list(np.asarray(generator.get_output("logits"), dtype=np.float32)[0])
        return logits


TRIED = (6, 33)
"""Lengths of prompts that every model is tried on."""


def try_out(folder: Path) -> str:
    """Return what goes wrong when the model reads two prompts and continues each, or "".

    Logits are not compared with others.
    """
    try:
        runner = Runner(folder)
        model = runner.config["model"]
        ids = (
            np.random.default_rng(0).integers(0, int(model["vocab_size"]), max(TRIED) + 3).tolist()
        )
        for prompt in TRIED:
            if prompt + 4 <= int(model["context_length"]):
                for row in runner.logits(ids[: prompt + 3], prompt):
                    if not np.isfinite(row).all():
                        return "logits are not finite"
    except RuntimeError as e:
        return f"onnxruntime-genai fails: {first_line(e, 200)}"
    return ""


STORED_AS: dict[int, tuple[Any, str]] = {
    1: (np.float32, "F32"),
    10: (np.float16, "F16"),
    11: (np.float64, "F64"),
    16: (np.uint16, "BF16"),
}
"""onnx.TensorProto's types of floating numbers -> numpy's type, safetensors' name."""


def not_finite(file: Path) -> str:
    """Return the name of an ONNX file's first initializer with infinities or NaN, or ""."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        stored, dtype = STORED_AS.get(tensor.data_type, (None, ""))
        if stored is None:
            continue
        if uses_external_data(tensor):
            external = {e.key: e.value for e in tensor.external_data}
            count = int(external["length"]) // np.dtype(stored).itemsize
            values: Any = (
                np.memmap(
                    file.with_name(external["location"]),
                    stored,
                    "r",
                    int(external.get("offset", 0)),
                    (count,),
                )
                if count
                else ()
            )
        else:
            values = onnx.numpy_helper.to_array(tensor).reshape(-1)
            # A single infinity is what masks are made of.
            if values.size < 2:
                continue
            values = values.view(stored)
        for start in range(0, len(values), 1 << 22):
            if not is_finite(values[start : start + (1 << 22)], dtype):
                return str(tensor.name)
    return ""
