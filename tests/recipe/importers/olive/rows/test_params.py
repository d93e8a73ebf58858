"""Parameters of a component: five places, of which the first that says something wins."""

from __future__ import annotations

from typing import Any

import pytest

from olivebuild.recipe.importers.olive.rows.params import Params
from olivebuild.recipe.importers.positions import Placeholder, shown
from tests.recipe.importers.olive.reading import Reading

PLACES: list[tuple[str, Any]] = [
    ("pre_process_data_config.params.joiner", {"pre_process_data_config": {"params": "V"}}),
    ("pre_process_data_config.joiner", {"pre_process_data_config": "V"}),
    (
        "params_config.component_kwargs.pre_process_data.joiner",
        {"params_config": {"component_kwargs": {"pre_process_data": "V"}}},
    ),
    (
        "components.pre_process_data.params.joiner",
        {"components": {"pre_process_data": {"params": "V"}}},
    ),
    ("components.pre_process_data.joiner", {"components": {"pre_process_data": "V"}}),
    ("params_config.joiner", {"params_config": "V"}),
]
"""Paths in the order in which they win, and what holds them."""


def filled(place: Any, value: Any) -> dict[str, Any]:
    """Return a place with a parameter of that value in it."""
    return {k: {"joiner": value} if v == "V" else filled(v, value) for k, v in place.items()}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    result = dict(one)
    for key, value in other.items():
        is_both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if is_both else value
    return result


def params(value: dict[str, Any]) -> tuple[Params, Reading]:
    reading = Reading(value)
    return Params(reading.root, "pre_process_data"), reading


@pytest.mark.parametrize(("path", "place"), PLACES)
def test_a_parameter_is_read_from_each_place(path: str, place: Any) -> None:
    reader, reading = params(filled(place, "x"))
    option = reader.get("joiner", str)
    assert option.value == "x"
    assert [shown(p) for p in option.paths] == [path]
    assert "joiner" in reader
    assert reading.unclaimed() == [path]


@pytest.mark.parametrize("first", range(len(PLACES) - 1))
def test_the_earlier_of_two_places_wins_and_the_other_is_told(first: int) -> None:
    (path, place), (other, below) = PLACES[first : first + 2]
    reader, reading = params(merged(filled(place, "x"), filled(below, "y")))
    assert reader.get("joiner", str).value == "x"
    assert reading.unclaimed() == [path]
    assert reading.entries()[other].text == "another place of the same parameter wins"


def test_null_hands_on_to_the_next_place() -> None:
    reader, reading = params(merged(filled(PLACES[0][1], None), filled(PLACES[5][1], "y")))
    assert reader.get("joiner", str).value == "y"
    assert reader.null("joiner") is None
    assert reading.entries()[PLACES[0][0]].text == "another place of the same parameter wins"


def test_null_everywhere_is_told_apart_from_nothing() -> None:
    reader, reading = params(merged(filled(PLACES[0][1], None), filled(PLACES[5][1], None)))
    assert not reader.get("joiner", str).given
    assert reader.null("joiner") == ("pre_process_data_config", "params", "joiner")
    assert reader.null("stride") is None
    assert {e.text for e in reading.entries().values()} == {"null: left out"}


def test_a_value_of_another_type_is_refused_and_not_there() -> None:
    reader, reading = params({"pre_process_data_config": {"stride": "far", "joiner": "<joiner>"}})
    assert reader.get("stride", int).value is None
    assert reader.get("joiner", str).value == Placeholder("joiner")
    assert reading.refusals() == {
        "pre_process_data_config.stride": "stride is text where a whole number must stand"
    }


def test_the_type_is_a_function_and_no_parameter() -> None:
    reader, _ = params(
        {
            "pre_process_data_config": {"params": {"type": "no"}},
            "components": {"pre_process_data": {"type": "mine"}},
        }
    )
    assert reader.type().value == "mine"
    assert reader.type().paths == (("components", "pre_process_data", "type"),)


def test_unknown_keys_are_refused_in_the_components_own_places_alone() -> None:
    reader, reading = params(
        {
            "pre_process_data_config": {"type": "t", "strid": 1, "params": {"stride": 1}},
            "params_config": {"data_name": "of another component"},
        }
    )
    reader.unknown(["stride"])
    (refusal,) = reading.ledger.refusals()
    assert (refusal.text, refusal.hint) == ("unknown field 'strid'", "did you mean stride?")


def test_other_components_are_not_read() -> None:
    reader, _ = params(
        {"load_dataset_config": {"joiner": "x"}, "components": {"dataloader": {"joiner": "x"}}}
    )
    assert "joiner" not in reader
    assert not reader.sections
