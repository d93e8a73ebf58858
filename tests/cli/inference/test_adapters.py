"""Adapters on the command line: which fit a model, and which of them answers in a chat."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.cli.inference.adapters import (
    Voice,
    Voices,
    adapters_on,
    base_of,
    check_adapters,
)
from olivebuild.cli.inference.chat import HELP, _told
from olivebuild.core.errors import RecipeError
from olivebuild.planner.project import open_graph
from olivebuild.recipe.graph import Graph

RECIPE = """\
targets:
  base: {kind: model, source: nowhere}
  int4: {kind: onnx, model: base, slots: all-linear}
  other: {kind: onnx, model: base, slots: [q_proj]}
  tone: {kind: onnx-adapter, base: int4, source: a}
  legal: {kind: onnx-adapter, base: int4, source: b}
  third: {kind: onnx-adapter, base: other, source: c}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    (tmp_path / "olivebuild.yaml").write_text(RECIPE)
    return open_graph(tmp_path, None)


def test_the_adapters_of_a_model_are_those_for_its_slots(graph: Graph) -> None:
    assert adapters_on(graph, "int4") == ["tone", "legal"]
    assert adapters_on(graph, "base") == []
    assert base_of(graph, "third") == "other"
    assert check_adapters(graph, "int4", ["legal", "tone", "legal"]) == ("legal", "tone")
    assert check_adapters(graph, "tone", ["legal"]) == ("legal",)
    assert check_adapters(graph, "base", []) == ()


@pytest.mark.parametrize(
    ("target", "name", "hint"),
    [
        ("int4", "third", "tone"),
        ("int4", "tune", "tone"),
        ("base", "tone", "a target of kind onnx-adapter with base: base makes one"),
    ],
)
def test_one_that_is_not_of_the_model_is_refused(
    graph: Graph, target: str, name: str, hint: str
) -> None:
    with pytest.raises(RecipeError, match=f"{name} is no adapter for") as caught:
        check_adapters(graph, target, [name])
    assert hint in caught.value.hint
    assert str(caught.value.where) == "--adapter"


def test_a_chat_turns_to_another_adapter() -> None:
    voices = Voices({"int4": Voice(), "tone": Voice(adapter="tone", form=0)}, "tone")
    assert voices.now == Voice(adapter="tone", form=0)
    assert _told("/adapter", voices, interactive=False) == "there are int4, tone (now)"
    assert _told("/adapter int4", voices, interactive=False) == "int4 answers from here on"
    assert voices.now == Voice()
    assert "there is no x" in _told("/adapter x", voices, interactive=False)
    assert voices.name == "int4"
    assert "/adapter" in _told("/help", voices, interactive=False)
    # A question, and what a model without adapters is asked.
    assert _told("/adapter is a word of mine", voices, interactive=False) == ""
    alone = Voices({"int4": Voice()}, "int4")
    assert _told("/adapter", alone, interactive=False) == ""
    assert _told("/help", alone, interactive=False) == HELP
