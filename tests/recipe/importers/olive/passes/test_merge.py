"""MergeAdapterWeights: the merge of the adapter before, as its age merged."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.recipe.importers.olive.draft import Ref
from olivebuild.recipe.importers.olive.passes.merge import map_merge
from olivebuild.recipe.importers.olive.section import config_of
from olivebuild.recipe.importers.olive.workflow import Hardware, Pass, State
from tests.recipe.importers.olive.reading import Reading, values


def merged(
    version: str, config: dict[str, Any] | None = None, *, method: str = "lora", adapter: str = "a"
) -> tuple[State, Reading]:
    entry = {"type": "MergeAdapterWeights", "config": config or {}}
    reading = Reading({"passes": {"merge": entry}}, version)
    section = reading.section("passes", "merge")
    if adapter:
        reading.workflow.draft.target(adapter, "adapter").set("method", method)
    pass_ = Pass(
        name="merge",
        type="mergeadapterweights",
        section=section,
        options=config_of(section),
        hardware=Hardware(),
    )
    state = State(model="base", adapter=adapter, dtype="bfloat16")
    return map_merge(reading.workflow, state, pass_), reading


@pytest.mark.parametrize(
    ("version", "method", "onto"),
    [
        ("0.6.2", "lora", None),
        ("0.6.2", "qlora", "dequantised"),
        ("0.7.0", "qlora", None),
        ("main", "dora", None),
    ],
)
def test_a_merge_follows_its_adapter(version: str, method: str, onto: str | None) -> None:
    state, reading = merged(version, method=method)
    assert state == State(model="merge", dtype="bfloat16")
    target = reading.workflow.draft.targets["merge"]
    expected: dict[str, object] = {"model": Ref(target="base"), "adapter": Ref(target="a")}
    assert values(target) == expected | ({"onto": onto} if onto else {})
    assert bool(target.comments) is (method == "qlora" and onto is None)


def test_without_an_adapter_nothing_is_written() -> None:
    state, reading = merged("0.7.0", adapter="")
    assert state == State(model="base", dtype="bfloat16")
    assert reading.refusals() == {"passes.merge.type": "there is no adapter to merge"}
    assert not reading.workflow.draft.targets


def test_an_unknown_option_is_refused() -> None:
    _, reading = merged("0.7.0", {"scale": 2})
    (refusal,) = reading.ledger.refusals()
    assert (refusal.text, refusal.line) == ("unknown field 'scale'", 6)
