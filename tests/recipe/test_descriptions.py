"""Descriptions of fields: docstrings, texts of fields.toml, and what editors are shown of them."""

from __future__ import annotations

from olivebuild.recipe.descriptions import describe, described, docstrings, nested, plain
from olivebuild.steps.adapter import AdapterFields
from olivebuild.steps.dataset import DatasetFields
from olivebuild.steps.parts.training import Training


def test_a_field_has_its_docstring_or_its_text() -> None:
    texts = described("Training", Training)
    assert texts["warmup_ratio"].startswith("Share of the steps")
    assert texts["lr"] == "Learning rate."
    assert texts.keys() >= Training.model_fields.keys()


def test_a_field_is_called_as_in_a_recipe() -> None:
    assert "from" in docstrings(AdapterFields)
    assert "from_" not in docstrings(AdapterFields)


def test_records_in_records_are_described_too() -> None:
    assert {m.__name__ for m in nested(AdapterFields)} >= {"Training", "Eval", "Quantisation"}
    assert nested(DatasetFields) == []


def test_editors_get_one_line_without_links() -> None:
    assert plain("one of\n[the sources](../a.md#b)  here") == "one of the sources here"


def test_a_description_that_is_there_stays() -> None:
    schema = {"properties": {"a": {"description": "x"}, "b": {}, "c": {}}}
    describe(schema, {"a": "y", "b": "z"})
    assert schema["properties"] == {"a": {"description": "x"}, "b": {"description": "z"}, "c": {}}
