"""Placeholders: what needs one is not built, and all else is."""

from __future__ import annotations

import pytest

from olivebuild.recipe.placeholders import text_of, within, without
from olivebuild.recipe.validate import check
from tests.conftest import Place

RECIPE = """\
default: free
targets:
  free: {kind: command, run: "cp in.txt {outputs.x}", files: [in.txt], outputs: {x: x.txt}}
  base: {kind: model, source: "<placeholder: model folder>"}
  rows: {kind: dataset, source: in.jsonl, text: "{text}", holdout: 0}
  tuned:
    kind: adapter
    model: base
    data: rows
    training:
      steps: "<placeholder: max_steps>"
  merged: {kind: merged, model: base, adapter: tuned}
"""


def test_a_placeholder_is_text_of_one_form() -> None:
    assert text_of("<placeholder: Your ID>") == "Your ID"
    assert text_of("<place>") is None
    value = {"a": ["x", "<placeholder: p>"], "b": {"c": "<placeholder: q>", "d": 1}, "e": 2}
    assert list(within(value)) == [(("a", 1), "p"), (("b", "c"), "q")]
    assert without(value, [("a", 1), ("b", "c")]) == {"b": {"d": 1}, "e": 2}
    assert without(value, [("b", "c")]) == {"a": ["x", "placeholder"], "b": {"d": 1}, "e": 2}


def test_a_field_that_is_left_open_is_at_its_default() -> None:
    checked = check(RECIPE, "r.yaml")
    assert checked.targets["tuned"].placeholders == {"training.steps": "max_steps"}
    assert checked.targets["base"].placeholders == {"source": "model folder"}
    assert checked.targets["free"].placeholders == {}


@pytest.mark.parametrize(
    ("goal", "line", "fact"),
    [
        ("base", 4, "base.source is a placeholder (model folder)"),
        ("merged", 4, "base.source is a placeholder (model folder), which merged needs"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "build"])
def test_a_goal_that_needs_one_stops_before_anything_runs(
    place: Place, verb: str, goal: str, line: int, fact: str
) -> None:
    place.recipe.write_text(RECIPE)
    done = place.run(verb, goal)
    assert done.code == 2
    assert f"olivebuild.yaml:{line}:" in done.err
    assert fact in done.err
    assert f"--set {fact.partition(' ')[0]}=VALUE" in done.err


def test_other_goals_are_built_and_values_of_the_command_line_count(place: Place) -> None:
    (place.folder / "in.txt").write_text("x")
    place.recipe.write_text(RECIPE)
    assert place.build().ran == ["free"]
    assert place.build().ran == []
    assert "broken   base" in place.run("status").out
    error = place.run("plan", "tuned", "--set", "base.source=other")
    assert "tuned.training.steps is a placeholder (max_steps)" in error.err
    assert "olivebuild.yaml:11:" in error.err


def test_a_value_of_a_wrong_type_is_still_an_error_beside_one(place: Place) -> None:
    place.recipe.write_text(RECIPE.replace("training:", "r: x\n    training:"))
    done = place.run("plan")
    assert done.code == 2
    assert "tuned.r" in done.err


def test_an_input_that_is_left_open_is_none_yet(place: Place) -> None:
    (place.folder / "in.txt").write_text("x")
    place.recipe.write_text(RECIPE.replace("data: rows", 'data: "<placeholder: rows>"'))
    assert place.build().ran == ["free"]
    done = place.run("plan", "tuned", "--set", "base.source=other")
    assert (done.code, "tuned.data is a placeholder (rows)" in done.err) == (2, True), done.err
