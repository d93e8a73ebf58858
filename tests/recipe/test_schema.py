"""The JSON Schema of recipes: what it accepts and refuses agrees with what the reader does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from olivebuild.api.step import KINDS, step_of
from olivebuild.core.errors import RecipeError
from olivebuild.recipe import document
from olivebuild.recipe.command_names import COMMANDS
from olivebuild.recipe.descriptions import nested, texts
from olivebuild.recipe.executors import MODELS
from olivebuild.recipe.file import FILE_NAME, load
from olivebuild.recipe.schema import recipe_schema
from olivebuild.recipe.validate import Cache

VALIDATOR = Draft202012Validator(recipe_schema())
COMMAND = "  a: {kind: command, run: cp x y, outputs: [y.txt]}\n"
GOOD = [
    "targets:\n" + COMMAND,
    "version: 1\ndefault: a\ntargets:\n" + COMMAND,
    "numerics: strict\ntargets:\n" + COMMAND,
    "default: [a]\ncache: {remote: 'https://example.org', max_size: 50GB}\ntargets:\n" + COMMAND,
    "targets:\n  base: {kind: model, source: 'hf:a/b'}\n",
    "targets:\n  tone: {kind: dataset, source: [a.jsonl, b.csv], prompt: p, completion: c, "
    "holdout: 0.5, seed: 3, dedupe: false}\n",
    "targets:\n  adapter: {kind: adapter, model: base, data: tone.train, modules: [q], "
    "training: {lr: 1e-4, epochs: 1}}\n",
    "targets:\n  adapter: {kind: adapter, model: base, data: tone.train, sequences: blocks}\n",
    "targets:\n  adapter: {kind: adapter, model: base, data: tone.train, sequences: {form: lines, "
    "holdout: 0.3}, eval: {every: 5}, training: {warmup_ratio: 0.1}}\n",
    "targets:\n  merged: {kind: merged, model: base, adapter: adapter}\n",
    "targets:\n  onnx: {kind: onnx, model: merged, block_size: 64, symmetric: true}\n",
    "targets:\n  bench: {kind: benchmark, models: [base], data: tone.test, gates: ['accuracy "
    ">= 0.9']}\n",
    "targets:\n  a: {kind: command, run: x, inputs: {b: c}, files: [s.py], outputs: {y: "
    "y.txt}, environment: {A: b}}\n",
]
BAD = [
    "targets: {}",
    "version: 2\ntargets:\n" + COMMAND,
    "numerics: exact\ntargets:\n" + COMMAND,
    "foo: 1\ntargets:\n" + COMMAND,
    "cache: {remot: x}\ntargets:\n" + COMMAND,
    "targets:\n  A: {kind: command, run: x, outputs: [y]}\n",
    "targets:\n  build: {kind: command, run: x, outputs: [y]}\n",
    "targets:\n  a: {run: x, outputs: [y]}\n",
    "targets:\n  a: {kind: comand, run: x, outputs: [y]}\n",
    "targets:\n  a: {kind: command, run: x}\n",
    "targets:\n  a: {kind: command, run: 1, outputs: [y]}\n",
    "targets:\n  a: {kind: command, run: x, outputs: []}\n",
    "targets:\n  a: {kind: command, run: x, outputs: [y], nope: 1}\n",
    "targets:\n  base: {kind: model, source: 1}\n",
    "targets:\n  tone: {kind: dataset, source: x, text: t, holdout: 2}\n",
    "targets:\n  adapter: {kind: adapter, model: base, data: tone, training: {stepz: 1}}\n",
    "targets:\n  adapter: {kind: adapter, model: base, data: tone, r: '8'}\n",
    "targets:\n  adapter: {kind: adapter, model: base, data: tone, sequences: {form: block}}\n",
    "targets:\n  onnx: {kind: onnx, model: merged, precision: int3}\n",
    "targets:\n  bench: {kind: benchmark, models: [], data: tone}\n",
]


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("text", GOOD)
def test_good_recipes_pass_the_schema_and_the_reader(tmp_path: Path, text: str) -> None:
    assert [e.message for e in VALIDATOR.iter_errors(document.parse(text, "r").value)] == []
    (tmp_path / FILE_NAME).write_text(text)
    load(tmp_path / FILE_NAME)


@pytest.mark.parametrize("text", BAD)
def test_bad_recipes_fail_the_schema_and_the_reader(tmp_path: Path, text: str) -> None:
    assert not VALIDATOR.is_valid(document.parse(text, "r").value)
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(RecipeError):
        load(tmp_path / FILE_NAME)


def test_every_kind_is_described() -> None:
    schema = recipe_schema()
    assert schema["$defs"]["target"]["properties"]["kind"]["enum"] == list(KINDS)
    assert all(schema["$defs"][kind]["properties"]["kind"]["description"] for kind in KINDS)


def test_names_of_commands_are_no_names_of_targets() -> None:
    assert recipe_schema()["properties"]["targets"]["propertyNames"]["not"] == {
        "enum": sorted(COMMANDS)
    }


def recipes_of_the_project() -> list[Path]:
    return sorted((Path(__file__).parents[2] / "recipes").glob(f"*/{FILE_NAME}"))


@pytest.mark.parametrize("file", recipes_of_the_project(), ids=lambda f: f.parent.name)
def test_the_recipes_of_the_project_pass(file: Path) -> None:
    assert [
        e.message for e in VALIDATOR.iter_errors(document.parse(file.read_text(), FILE_NAME).value)
    ] == []


def test_the_schema_is_plain_data() -> None:
    assert yaml.safe_load(yaml.safe_dump(recipe_schema())) == recipe_schema()


def properties_in(schema: object, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each property of the schema, by its path. A branch's condition describes none."""
    if isinstance(schema, list):
        for i, item in enumerate(schema):
            yield from properties_in(item, f"{place}[{i}]")
    if not isinstance(schema, dict):
        return
    named = schema.get("properties")
    if isinstance(named, dict) and schema.get("type") == "object":
        yield from ((f"{place}/{name}", field) for name, field in named.items())
        schema = schema | {"properties": list(named.values())}
    for key, item in schema.items():
        if key != "if":
            yield from properties_in(item, f"{place}/{key}")


def test_every_property_is_described() -> None:
    properties = dict(properties_in(recipe_schema()))
    assert len(properties) > 180
    assert [place for place, field in properties.items() if not field.get("description")] == []


def test_editors_are_shown_no_links_of_pages() -> None:
    texts = [field["description"] for _, field in properties_in(recipe_schema())]
    assert [text for text in texts if "](" in text or "\n" in text] == []


def records() -> dict[str, type[BaseModel]]:
    """Return each record of a recipe by its name in fields.toml."""
    of_kinds: dict[str, type[BaseModel]] = {}
    for kind in KINDS:
        step = step_of(kind)
        assert step is not None
        of_kinds[kind] = step.fields
    others: list[type[BaseModel]] = [m for model in of_kinds.values() for m in nested(model)]
    others += [*MODELS.values(), Cache]
    return of_kinds | {model.__name__: model for model in others}


def test_texts_are_of_fields() -> None:
    """Those of a field that is gone would stay for ever."""
    for record, names in texts().items():
        model = records()[record]
        fields = {field.alias or name for name, field in model.model_fields.items()}
        assert names.keys() <= fields, record
