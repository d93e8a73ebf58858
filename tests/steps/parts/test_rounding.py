"""`aware` of an adapter: its key, what it refuses, and what an onnx target does otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from olivebuild.steps.adapter import STEP, AdapterFields
from olivebuild.steps.onnx import OnnxFields
from olivebuild.steps.parts import rounding
from olivebuild.steps.parts.rounding import Aware, differences
from tests.steps.parts.test_adapter_methods import OF_BEFORE


def fields_of(**fields: Any) -> AdapterFields:
    return AdapterFields.model_validate({"model": "base", "data": "tone.train"} | fields)


def test_without_it_keys_and_libraries_are_those_of_before() -> None:
    plain = fields_of()
    assert STEP.parameters(plain).keys() == OF_BEFORE
    assert STEP.parameters(fields_of(aware=None)) == STEP.parameters(plain)
    assert not set(rounding.LIBRARIES) & set(STEP.libraries(plain))
    assert set(rounding.LIBRARIES) <= set(STEP.libraries(fields_of(aware={})))


def test_a_default_that_is_written_changes_no_key_and_another_value_does() -> None:
    plain = STEP.parameters(fields_of(aware={}))
    written = {"precision": "int4", "block_size": 32, "algorithm": "default", "symmetric": True}
    assert STEP.parameters(fields_of(aware=written)) == plain
    assert plain["aware"] == {"precision": "int4", "provider": "cpu"}
    others: list[dict[str, Any]] = [
        {"block_size": 64}, {"symmetric": False}, {"precision": "int8"},
        {"overrides": {"/a": "int8"}}, {"mixed_precision": "last_matmul:int8"},
        {"nodes_to_exclude": ["/a"]}, {"provider": "cuda"},
    ]  # fmt: skip
    keys = [repr(STEP.parameters(fields_of(aware=other))) for other in others]
    assert len({*keys, repr(plain)}) == len(others) + 1


@pytest.mark.parametrize(
    ("said", "fact", "hint"),
    [
        ({"method": "qlora"}, "method: qlora adds something else", "leave method"),
        ({"method": "loha"}, "method: loha adds something else", "leave method"),
        ({"dora": True}, "dora: true adds something else", "leave dora"),
        ({"dropout": 0.1}, "dropout: 0.1 adds something else", "leave dropout"),
        ({"training": {"base": "fp8"}}, "training.base keeps them", "leave base"),
        ({"training": {"offload": "cpu"}}, "training.offload keeps them", "leave offload"),
        ({"training": {"shard": "base"}}, "training.shard keeps them", "leave shard"),
        (
            {"aware": {"precision": "int8", "provider": "dml"}},
            "int8 does not exist for dml",
            "int4",
        ),
        ({"aware": {"algorithm": "rtn"}}, "not round as algorithm: rtn does", "algorithm: default"),
        (
            {"aware": {"algorithm": "k_quant"}},
            "not round as algorithm: k_quant does",
            "leave it out",
        ),
        (
            {"aware": {"overrides": {"/a": "int8"}, "mixed_precision": "last_matmul:int8"}},
            "mixed_precision or overrides, not both",
            "leave one out",
        ),
    ],
)
def test_what_training_can_not_see_is_refused(said: dict[str, Any], fact: str, hint: str) -> None:
    problem = STEP.check(fields_of(**({"aware": {}} | said)))
    assert problem is not None
    assert fact in problem.fact
    assert hint in problem.hint


def test_an_adapter_from_elsewhere_takes_no_rounding() -> None:
    problem = STEP.check(AdapterFields.model_validate({"source": "there", "aware": {}}))
    assert problem is not None
    assert "aware" in problem.fact
    assert STEP.check(fields_of(aware={})) is None


def test_options_are_those_of_an_onnx_target() -> None:
    assert set(Aware.model_fields) <= set(OnnxFields.model_fields)
    for name in ("algorithm", "block_size", "symmetric", "overrides", "provider"):
        ours, theirs = Aware.model_fields[name], OnnxFields.model_fields[name]
        assert ours.annotation == theirs.annotation
    with pytest.raises(ValidationError, match="precision"):
        fields_of(aware={"precision": "fp32"})


def test_what_a_target_rounds_otherwise_is_told() -> None:
    assert differences({}, {"precision": "int4", "block_size": 32, "accuracy_level": 1}) == []
    assert differences({"block_size": 32}, {"algorithm": "k_quant", "symmetric": False}) == [
        "algorithm: k_quant instead of default",
        "symmetric: false instead of true",
    ]
    eight = {"overrides": {"/model/layers.*/attn/o_proj/MatMul": "int8"}}
    assert differences(eight, {"block_size": 64}) == [
        "block_size: 64 instead of 32",
        "overrides: none instead of {/model/layers.*/attn/o_proj/MatMul: int8}",
    ]
    assert differences(eight, eight) == []
    assert differences({}, {"op_types": ["Gather"], "qdq": True}) == [
        "op_types: [Gather] instead of none",
        "qdq: true instead of none",
    ]
    assert differences({}, {"precision": "int8"}) == ["precision: int8 instead of int4"]
