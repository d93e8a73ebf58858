"""Errors of fields: one error, at the place that a person must mend."""

from __future__ import annotations

import pytest

from olivebuild.api.fields import Fields
from olivebuild.core.errors import RecipeError
from olivebuild.formats.source import Source
from olivebuild.recipe import document
from olivebuild.recipe.field_errors import faults, types_of, validate

PATH = ("targets", "a")
START = "targets:\n  a:\n"


class Inner(Fields):
    """A mapping below."""

    steps: int = 1
    rate: float = 0.5


class Outer(Fields):
    """A target."""

    name: str
    training: Inner | None = None
    axis: list[int] | int = 1
    source: Source | None = None


def error(lines: str) -> RecipeError:
    """Return the error of a target `a` that is written on lines 3 and on."""
    doc = document.parse(START + lines, "olivebuild.yaml")
    value = doc.value
    for key in PATH:
        assert isinstance(value, dict)
        value = value[key]
    with pytest.raises(RecipeError) as caught:
        validate(doc, Outer, value, PATH, "a")
    return caught.value


@pytest.mark.parametrize(
    ("lines", "fact", "hint", "line"),
    [
        # A misspelt key explains the missing one.
        ("    nmae: x", "unknown key 'nmae' in a", "did you mean name?", 3),
        (
            "    name: x\n    training: {stpes: 1}",
            "unknown key 'stpes' in a",
            "did you mean steps?",
            4,
        ),
        ("    axis: 2", "a has no name", "add `name:`", 2),
        (
            "    name: x\n    training: {steps: many}",
            "a.training.steps: input should be a valid integer",
            "`olivebuild schema` tells what each field takes",
            4,
        ),
        (
            "    name: x\n    source: 's3:k'",
            "a.source: 's3:k' is not of the form s3://BUCKET/KEY",
            "`olivebuild schema` tells what each field takes",
            4,
        ),
    ],
)
def test_the_first_fault_is_told_at_its_line(lines: str, fact: str, hint: str, line: int) -> None:
    caught = error(lines)
    assert (caught.fact, caught.hint) == (fact, hint)
    assert caught.where is not None
    assert str(caught.where).startswith(f"olivebuild.yaml:{line}:")


def test_of_a_unions_types_the_one_that_was_meant_is_told() -> None:
    caught = error("    name: x\n    axis:\n      - 1\n      - two")
    assert caught.fact.startswith("a.axis.1: ")
    assert str(caught.where).startswith("olivebuild.yaml:6:")


def test_a_line_with_a_credential_is_not_shown() -> None:
    caught = error("    name: x\n    source: https://u:planted@h.example/a.csv")
    assert "planted" not in str(caught)
    assert str(caught.where) == "olivebuild.yaml:4:5"
    assert "planted" not in repr(caught.where)


def test_faults_are_counted() -> None:
    assert faults(Outer, {"name": "x"}) == 0
    assert faults(Outer, {"training": {"steps": "many"}, "nmae": 1}) == 3


def test_types_of_a_union_are_without_their_metadata() -> None:
    assert types_of(Inner | None) == {Inner, type(None)}
    assert types_of(Outer.model_fields["axis"].annotation) == {list[int], int}
