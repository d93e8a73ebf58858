"""What the kind `adapter` declares of each method, and what merges and benchmarks make of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from olivebuild.api.step import KINDS, Node, Step, Target, step_of
from olivebuild.core.errors import RecipeError
from olivebuild.steps.adapter import STEP, AdapterFields


def fields_of(**fields: Any) -> AdapterFields:
    return AdapterFields.model_validate({"model": "base", "data": "tone.train"} | fields)


OF_BEFORE = {"r", "alpha", "dropout", "rslora", "dora", "modules", "training", "eval", "method"}
"""Parameters of adapters from before there were other methods."""


def test_what_was_there_before_keeps_its_key() -> None:
    assert STEP.parameters(fields_of()).keys() == OF_BEFORE
    assert STEP.parameters(fields_of(method="qlora")).keys() == OF_BEFORE | {"quantisation"}
    silent = {"loftq_iter": 1, "rank_dropout": 0, "init_weights": True, "exclude": [], "layers": []}
    assert STEP.parameters(fields_of(**silent)) == STEP.parameters(fields_of())


def test_the_order_of_names_and_patterns_changes_no_key() -> None:
    said: dict[str, Any] = {
        "exclude": ["b", "a", "b"], "layers": [1, 0], "rank_pattern": {"b": 2, "a": 1},
    }  # fmt: skip
    fields = fields_of(**said)
    assert (fields.exclude, fields.layers) == (["a", "b"], [0, 1])
    assert list(fields.rank_pattern) == ["a", "b"]
    assert STEP.parameters(fields).keys() == OF_BEFORE | said.keys()


@pytest.mark.parametrize(
    ("method", "libraries"),
    [("lora", False), ("qlora", True), ("loftq", True), ("loha", False), ("lokr", False)],
)
def test_bitsandbytes_is_needed_where_the_base_is_in_4_bits(method: str, libraries: bool) -> None:
    assert ("bitsandbytes" in STEP.libraries(fields_of(method=method))) == libraries


@pytest.mark.parametrize(
    ("method", "said", "fact", "hint"),
    [
        ("loha", {"dora": True}, "`dora` belongs to method: lora or qlora", "leave it out"),
        ("lokr", {"rslora": True}, "`rslora` belongs to method: lora, qlora or loftq", "leave it"),
        ("loftq", {"dora": True}, "`dora` belongs to method: lora or qlora", "leave it out"),
        ("loha", {"dropout": 0.1}, "`dropout` belongs to", "rank_dropout or module_dropout"),
        ("loha", {"quantisation": {}}, "`quantisation` belongs to method: qlora or loftq", "leave"),
        ("lora", {"quantisation": {}}, "`quantisation` belongs to method: qlora or loftq", "leave"),
        ("qlora", {"loftq_iter": 2}, "`loftq_iter` belongs to method: loftq", "leave it out"),
        ("lora", {"rank_dropout": 0.1}, "`rank_dropout` belongs to method: loha or lokr", "leave"),
        ("loha", {"decompose_both": True}, "`decompose_both` belongs to method: lokr", "leave it"),
        ("loha", {"init_weights": "lycoris"}, "lycoris belongs to method: lokr", "write true"),
        ("lokr", {"decompose_factor": 0}, "decompose_factor is 0", "-1"),
        ("loftq", {"from": "other"}, "method: loftq computes the weights", "leave `from` out"),
        ("loha", {"rank_pattern": {"(": 4}}, "is no regular expression", "o_proj"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    method: str, said: dict[str, Any], fact: str, hint: str
) -> None:
    problem = STEP.check(fields_of(method=method, **said))
    assert problem
    assert fact in problem.fact
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("loha", {"dora": False, "dropout": 0, "rank_dropout": 0.1, "init_weights": False}),
        ("lokr", {"decompose_factor": 4, "decompose_both": True, "init_weights": "lycoris"}),
        ("loftq", {"loftq_iter": 5, "quantisation": {"double": False}, "rslora": True}),
        ("lora", {"rank_pattern": {r"layers\.0\..*": 4}, "modules": "peft-default"}),
    ],
)
def test_what_a_method_takes_is_no_problem(method: str, said: dict[str, Any]) -> None:
    assert STEP.check(fields_of(method=method, **said)) is None


@pytest.mark.parametrize(
    "said", [{"decompose_factor": -2}, {"layers": [-1]}, {"exclude": [""]}, {"method": "dylora"}]
)
def test_values_that_no_method_takes_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        fields_of(**said)


# Merges and benchmarks


def nodes_of(adapter: dict[str, Any], name: str, kind: str, fields: dict[str, Any]) -> list[Node]:
    """The nodes of a target that stands in a recipe with an adapter."""
    assert kind in KINDS
    recipe: dict[str, tuple[str, dict[str, Any]]] = {
        "adapter": ("adapter", adapter),
        "merged": ("merged", {"model": "base", "adapter": "adapter"}),
        name: (kind, fields),
    }
    targets: dict[str, Target] = {}
    for target, (of_kind, said) in recipe.items():
        step = step_of(of_kind)
        assert isinstance(step, Step)
        targets[target] = Target(target, of_kind, step, step.fields.model_validate(said))
    return targets[name].step.nodes(targets[name], targets)


TRAINED = {"model": "base", "data": "tone.train"}
MERGED = {"model": "base", "adapter": "adapter"}


@pytest.mark.parametrize(
    ("method", "onto"), [("qlora", None), ("loha", None), ("loftq", '"dequantised"')]
)
def test_an_adapter_of_loftq_is_merged_onto_what_it_was_trained_on(
    method: str, onto: str | None
) -> None:
    [node] = nodes_of(TRAINED | {"method": method}, "m", "merged", MERGED)
    assert dict(node.parameters).get("onto") == onto
    assert ("bitsandbytes" in node.libraries) == bool(onto)
    inner, _ = nodes_of(TRAINED | {"method": method}, "int4", "onnx", MERGED)
    assert dict(inner.parameters).get("onto") == onto


def test_an_adapter_of_loftq_is_not_merged_onto_another_base() -> None:
    with pytest.raises(RecipeError, match="adapter is trained by LoftQ, which changes the base"):
        nodes_of(TRAINED | {"method": "loftq"}, "m", "merged", MERGED | {"onto": "base"})


@pytest.mark.parametrize("method", ["lora", "loftq"])
def test_a_benchmark_asks_an_adapter_of_loftq_on_its_own_base(method: str) -> None:
    fields = {"models": ["adapter", "merged"], "data": "tone.test"}
    nodes = {
        node.name.partition(":")[2]: node
        for node in nodes_of(TRAINED | {"method": method}, "bench", "benchmark", fields)
    }
    asked = nodes["accuracy.adapter"]
    assert asked.fields.get("dequantised", False) == (method == "loftq")
    assert ("bitsandbytes" in asked.libraries) == (method == "loftq")
    # The merge is compared with base and adapter side by side where that is what it stands for.
    assert any("check" in node.kind for node in nodes.values()) == (method == "lora")
