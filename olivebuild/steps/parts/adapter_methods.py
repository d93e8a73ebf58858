"""Methods of adapters, and which of an adapter's fields each of them takes.

Names and meanings are those of peft 0.21.2 (tuners/lora, tuners/loha, tuners/lokr). `fields` are
always those of the kind `adapter`.
"""

from __future__ import annotations

import re
from typing import Any

from olivebuild.core.errors import Problem

QUANTISED = ("qlora", "loftq")
"""Methods that train on a base in 4 bits."""
KRONECKER_AND_HADAMARD = ("loha", "lokr")
"""Methods whose adapters are no LoRA: a weight's change is computed whole."""
TAKEN_BY: dict[str, tuple[str, ...]] = {
    "quantisation": QUANTISED,
    "loftq_iter": ("loftq",),
    "dropout": ("lora", "qlora", "loftq"),
    "rslora": ("lora", "qlora", "loftq"),
    "dora": ("lora", "qlora"),
    "rank_dropout": KRONECKER_AND_HADAMARD,
    "module_dropout": KRONECKER_AND_HADAMARD,
    "init_weights": KRONECKER_AND_HADAMARD,
    "rank_dropout_scale": ("lokr",),
    "decompose_both": ("lokr",),
    "decompose_factor": ("lokr",),
}
"""Fields that not every method takes -> the methods that do."""
INSTEAD = {"dropout": "rank_dropout or module_dropout instead, or leave it out"}
LATER = (
    "loftq_iter", "rank_dropout", "module_dropout", "init_weights", "rank_dropout_scale",
    "decompose_both", "decompose_factor", "exclude", "layers", "rank_pattern", "alpha_pattern",
    "aware",
)  # fmt: skip
"""Fields that were added later: at their defaults they are left out of keys, which stay equal."""


def without_defaults(fields: Any, parameters: dict[str, object]) -> dict[str, object]:
    """Return the parameters without later fields that say nothing, and without what is not read."""
    silent = {name for name in LATER if getattr(fields, name) == default_of(fields, name)}
    if not fields.quantises:
        silent.add("quantisation")
    return {name: value for name, value in parameters.items() if name not in silent}


def default_of(fields: Any, name: str) -> Any:
    """Return the default of a field."""
    return type(fields).model_fields[name].get_default(call_default_factory=True)


def check(fields: Any) -> Problem | None:
    """Return what is wrong with the fields of the method; None if nothing."""
    for name, methods in TAKEN_BY.items():
        value = getattr(fields, name)
        is_said = name in fields.model_fields_set
        if name != "quantisation":
            is_said = is_said and value != default_of(fields, name)
        if is_said and fields.method not in methods:
            write = INSTEAD.get(name) if fields.method in KRONECKER_AND_HADAMARD else None
            return Problem(
                f"`{name}` belongs to method: {_listed(methods)}",
                write or f"leave it out, or write method: {methods[0]}",
            )
    return _check_values(fields) or _check_patterns(fields)


def _listed(methods: tuple[str, ...]) -> str:
    """Return names as `a, b or c`."""
    return " or ".join(part for part in (", ".join(methods[:-1]), methods[-1]) if part)


def _check_values(fields: Any) -> Problem | None:
    if fields.decompose_factor == 0:
        return Problem(
            "decompose_factor is 0", "a factor of the weights' sizes, or -1 for near their root"
        )
    if fields.init_weights == "lycoris" and fields.method == "loha":
        return Problem(
            "init_weights: lycoris belongs to method: lokr", "write true or leave it out"
        )
    if fields.method == "loftq" and fields.from_:
        return Problem(
            "method: loftq computes the weights that training begins with, `from` brings others",
            "leave `from` out, or write method: qlora",
        )
    return None


def _check_patterns(fields: Any) -> Problem | None:
    for name in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(fields, name):
            try:
                re.compile(pattern)
            except (re.error, OverflowError) as e:
                return Problem(
                    f"{name}: {pattern!r} is no regular expression: {e}",
                    "names of layers are patterns, too: o_proj",
                )
    return None
