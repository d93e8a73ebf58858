"""`aware` of an adapter: the conversion whose rounding its training sees.

The options are those of an `onnx` target that decide how weights are rounded, and which of them.
Jacob et al. 2018, https://arxiv.org/abs/1712.05877 (training with simulated quantisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from olivebuild.api.fields import first_problem, only_one
from olivebuild.api.step import Fields
from olivebuild.core.errors import Problem
from olivebuild.steps.parts.conversion_options import PRECISIONS, Algorithm, BlockSize

LIBRARIES = ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir")
"""The libraries whose versions decide which weights a conversion rounds, and how."""
DEFAULTS: dict[str, object] = {"algorithm": "default", "block_size": 32, "symmetric": True}
"""What the model builder takes where an `onnx` target says nothing (onnxruntime-genai 0.18)."""
UNSEEN = ("op_types", "qdq")
"""Options of an `onnx` target that decide how weights are rounded, and that training has not."""
EXPLAINED = {
    "gptq": "it rounds by rows, after training; leave it out, or convert so without `aware`",
    "rtn": "algorithm: default rounds to nearest, too, and is what an onnx target does by itself",
}


class Aware(Fields):
    """Options of an `onnx` target by which weights are rounded while training.

    What is left out is the model builder's default.
    """

    precision: Literal["int4", "int8"] = "int4"
    provider: Literal["cpu", "cuda", "dml", "webgpu"] = "cpu"
    algorithm: Algorithm | None = None
    block_size: BlockSize | None = None
    symmetric: bool | None = None
    nodes_to_exclude: list[str] | None = None
    mixed_precision: str | None = None
    overrides: dict[str, Literal["int4", "int8"]] | None = None
    """Nodes of the float graph that get other bits; a `*` is the number of every layer."""
    shared_embeddings: bool | None = None
    fuse_qkv: bool | None = None

    def options(self) -> dict[str, Any]:
        """Return the options as an `onnx` target has them, without what says nothing."""
        return _said(self.model_dump(mode="json"))


OVERRIDES = tuple(
    only_one(
        name,
        "overrides",
        fact=f"the model builder takes {name} or overrides, not both",
        hint="leave one out",
    )
    for name in ("mixed_precision", "nodes_to_exclude")
)


def check(fields: Any) -> Problem | None:
    """Return what is wrong with `aware` of an adapter's fields; None if nothing, or without it."""
    aware = fields.aware
    if aware is None:
        return None
    for name, problem in {
        "method": fields.method != "lora",
        "dora": fields.dora,
        "dropout": fields.dropout > 0,
    }.items():
        if problem:
            return Problem(
                f"`aware` rounds a weight with all that LoRA adds, and {name}: "
                f"{str(getattr(fields, name)).lower()} adds something else",
                f"leave {name} or `aware` out",
            )
    for name in ("base", "offload", "shard"):
        if getattr(fields.training, name):
            return Problem(
                f"`aware` reads weights to round them, and training.{name} keeps them elsewhere or "
                "in another form",
                f"leave {name} or `aware` out",
            )
    if aware.precision not in PRECISIONS[aware.provider]:
        return Problem(
            f"{aware.precision} does not exist for {aware.provider}",
            f"precision: one of {', '.join(PRECISIONS[aware.provider])}",
        )
    if aware.algorithm not in (None, "default"):
        return Problem(
            f"training does not round as algorithm: {aware.algorithm} does",
            EXPLAINED.get(aware.algorithm, "leave it out, or convert so without `aware`"),
        )
    return first_problem(OVERRIDES, aware)


def differences(aware: Mapping[str, Any], onnx: Mapping[str, Any]) -> list[str]:
    """Return in words what an `onnx` target rounds otherwise than an adapter was trained for.

    Both are fields as a recipe has them.
    """
    trained, converted = (
        {"precision": "int4", "provider": "cpu"} | DEFAULTS | _said(values)
        for values in (aware, onnx)
    )
    return [
        f"{name}: {_text(converted.get(name))} instead of {_text(trained.get(name))}"
        for name in (*Aware.model_fields, *UNSEEN)
        if converted.get(name) != trained.get(name)
    ]


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from the builder's defaults."""
    return {
        name: values[name]
        for name in (*Aware.model_fields, *UNSEEN)
        if values.get(name) not in (None, {}, []) and values[name] != DEFAULTS.get(name)
    }


def _text(value: object) -> str:
    """Return a value as a recipe has it, on one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {kind}" for name, kind in value.items()) + "}"
    return f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
