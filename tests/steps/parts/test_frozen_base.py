"""What the kind `adapter` says of a base in FP8, in the processor's memory, or in pieces."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.api.step import Step, Target, step_of
from olivebuild.core.errors import RecipeError
from olivebuild.steps.adapter import STEP, AdapterFields


def fields_of(training: dict[str, Any], **fields: Any) -> AdapterFields:
    return AdapterFields.model_validate(
        {"model": "base", "data": "tone.train", "training": training} | fields
    )


def test_where_weights_lie_is_in_no_key_and_their_number_format_is() -> None:
    plain: Any = STEP.parameters(fields_of({}))
    assert "base" not in plain["training"]
    assert STEP.parameters(fields_of({"offload": "cpu"})) == plain
    assert STEP.parameters(fields_of({"shard": "base"})) == plain
    rounded: Any = STEP.parameters(fields_of({"base": "fp8"}))
    assert rounded["training"] == plain["training"] | {"base": "fp8", "roundings": 2}


@pytest.mark.parametrize(
    ("training", "said", "fact", "hint"),
    [
        ({"offload": "cpu", "shard": "base"}, {}, "each say where", "leave one out"),
        ({"base": "fp8"}, {"method": "qlora"}, "the method is qlora", "method: lora"),
        ({"base": "fp8"}, {"method": "loftq"}, "the method is loftq", "method: lora"),
        ({"base": "fp8"}, {"method": "loha"}, "the method is loha", "method: lora"),
        ({"base": "fp8"}, {"method": "lokr"}, "the method is lokr", "method: lora"),
        ({"base": "fp8"}, {"dora": True}, "`dora` takes the norms", "leave one"),
        ({"base": "fp8", "dtype": "float16"}, {}, "dtype is float16", "leave `dtype` out"),
        ({"base": "fp8", "dtype": "float32"}, {}, "dtype is float32", "leave `dtype` out"),
        (
            {"shard": "base"},
            {"method": "loha", "module_dropout": 0.1},
            "module_dropout leaves layers out",
            "offload: cpu",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    training: dict[str, Any], said: dict[str, Any], fact: str, hint: str
) -> None:
    problem = STEP.check(fields_of(training, **said))
    assert problem
    assert fact in problem.fact
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"base": "fp8", "offload": "cpu"}, {"dropout": 0.1, "rslora": True}),
        ({"base": "fp8", "shard": "base", "dtype": "bfloat16"}, {}),
        ({"offload": "cpu"}, {"method": "loha", "module_dropout": 0.1}),
        ({"offload": "cpu"}, {"method": "qlora", "dora": True}),
        ({"shard": "base"}, {"method": "loftq"}),
    ],
)
def test_what_goes_together_is_no_problem(training: dict[str, Any], said: dict[str, Any]) -> None:
    assert STEP.check(fields_of(training, **said)) is None


@pytest.mark.parametrize(
    ("resources", "fact", "hint"),
    [
        ({}, "the target takes one", "resources: {gpu: 2}"),
        ({"gpu": 1.0}, "the target takes one", "resources: {gpu: 2}"),
        ({"gpu": 4.0, "nodes": 2.0}, "takes 2 nodes", "leave `nodes` out"),
    ],
)
def test_a_base_that_nobody_can_share_is_refused(
    resources: dict[str, float], fact: str, hint: str
) -> None:
    step = step_of("adapter")
    assert isinstance(step, Step)
    target = Target("adapter", "adapter", step, fields_of({"shard": "base"}), resources)
    with pytest.raises(RecipeError, match=fact) as raised:
        step.nodes(target, {})
    assert hint in raised.value.hint
    shared = Target("adapter", "adapter", step, fields_of({"shard": "base"}), {"gpu": 2.0})
    assert step.nodes(shared, {})
