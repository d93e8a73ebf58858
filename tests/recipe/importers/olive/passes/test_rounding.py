"""Roundings of PyTorch's weights: what they decide for the ONNX model to be."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.recipe.importers.olive.passes.rounding import map_mixed, map_rounder
from olivebuild.recipe.importers.olive.section import config_of
from olivebuild.recipe.importers.olive.workflow import Hardware, Pass, State
from tests.recipe.importers.olive.reading import Reading

BUILDER = {"type": "ModelBuilder", "precision": "int4"}


def rounded(
    *passes: dict[str, Any], version: str = "main", then: dict[str, Any] | None = BUILDER
) -> tuple[dict[str, object], Reading]:
    """Return the fields of an ONNX model that passes decide in turn, and what became of them."""
    entries = {f"p{i}": entry for i, entry in enumerate(passes)}
    reading = Reading({"passes": entries | ({"onnx": then} if then else {})}, version)
    state = State(model="base")
    for name in entries:
        section = reading.section("passes", name)
        kind = str(section.value["type"]).lower()
        section.mapped("type", "")
        mapper = map_mixed if kind == "selectivemixedprecision" else map_rounder
        pass_ = Pass(
            name=name,
            type=kind,
            section=section,
            options=config_of(section),
            hardware=Hardware(),
        )
        state = mapper(reading.workflow, state, pass_)
    return {r.field: r.value for r in state.quantisation}, reading


@pytest.mark.parametrize(
    ("entry", "version", "expected"),
    [
        (
            {"type": "Gptq", "bits": 4, "group_size": 32, "sym": False},
            "main",
            {"block_size": 32, "symmetric": False, "algorithm": "k_quant"},
        ),
        ({"type": "Rtn", "bits": 8}, "main", {"precision": "int8", "algorithm": "rtn"}),
        (
            {"type": "GptqQuantizer", "bits": 4, "group_size": 128},
            "0.8.0",
            {"block_size": 128, "algorithm": "k_quant"},
        ),
        (
            {"type": "AutoAWQQuantizer", "w_bit": 4, "q_group_size": 64, "zero_point": True},
            "0.8.0",
            {"block_size": 64, "symmetric": False, "algorithm": "k_quant"},
        ),
    ],
)
def test_what_a_rounding_decides(
    entry: dict[str, Any], version: str, expected: dict[str, object]
) -> None:
    fields, reading = rounded(entry, version=version)
    assert fields.items() >= expected.items()
    assert not reading.refusals()


def test_the_head_in_8_bits_is_a_second_rounding() -> None:
    fields, reading = rounded(
        {"type": "Rtn", "bits": 4, "group_size": 32}, {"type": "Rtn", "bits": 8, "lm_head": True}
    )
    assert fields["algorithm"] == "rtn_last"
    assert fields["block_size"] == 32
    assert "precision" not in fields
    assert not reading.refusals()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("k_quant_mixed", "k_quant_mixed"), ("K_QUANT_LAST", "k_quant_last")],
)
def test_mixed_precision_names_its_layers(name: str, expected: str) -> None:
    fields, reading = rounded(
        {"type": "Gptq", "bits": 4}, {"type": "SelectiveMixedPrecision", "algorithm": name}
    )
    assert fields["algorithm"] == expected
    assert not reading.refusals()


def test_what_is_nearest_is_told_so() -> None:
    _, reading = rounded({"type": "SelectiveMixedPrecision", "algorithm": "kld_gradient"})
    entry = reading.entries()["passes.p0.algorithm"]
    assert entry.text.startswith("nearest to kld_gradient")


@pytest.mark.parametrize(
    ("entry", "key", "fact", "hint"),
    [
        ({"type": "Gptq", "bits": 3}, "bits", "3 bits a weight", "4 or 8"),
        (
            {"type": "Gptq", "bits": 4, "group_size": 48},
            "group_size",
            "blocks of 48",
            "16, 32, 64, 128 or 256",
        ),
        (
            {"type": "SelectiveMixedPrecision", "algorithm": "k_quant_lst"},
            "algorithm",
            "'k_quant_lst' is no algorithm here",
            "did you mean k_quant_last?",
        ),
    ],
)
def test_a_fault_is_refused_where_it_stands(
    entry: dict[str, Any], key: str, fact: str, hint: str
) -> None:
    _, reading = rounded(entry)
    (refusal,) = reading.ledger.refusals()
    assert reading.refusals() == {f"passes.p0.{key}": fact}
    assert refusal.hint == hint


def test_one_scale_a_row_has_no_effect() -> None:
    fields, reading = rounded({"type": "Gptq", "bits": 4, "group_size": -1})
    assert "block_size" not in fields
    assert "finer" in reading.entries()["passes.p0.group_size"].text


@pytest.mark.parametrize("kind", ["Gptq", "SelectiveMixedPrecision"])
def test_a_rounded_model_of_pytorch_is_no_target(kind: str) -> None:
    fields, reading = rounded({"type": kind, "bits": 4}, then=None)
    assert not fields
    assert reading.refusals()["passes.p0.type"] == (
        "a model with rounded weights in PyTorch is no target here"
    )
    assert reading.unclaimed() == []
