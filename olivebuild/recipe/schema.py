"""The JSON Schema of recipes (draft 2020-12), from the fields of the kinds."""

from __future__ import annotations

import inspect
from typing import Any

from olivebuild.api.fields import Fields
from olivebuild.api.node import NAME
from olivebuild.api.step import kinds, step_of
from olivebuild.recipe.command_names import COMMANDS
from olivebuild.recipe.descriptions import describe, described, nested, plain
from olivebuild.recipe.executors import MODELS, Machine
from olivebuild.recipe.validate import NUMERICS, Cache

RESOURCES: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]},
}
COMMON = {
    "matrix": {
        "description": "field -> values: one target, NAME-VALUE-VALUE, for each combination",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"type": "array", "minItems": 1},
    },
    "resources": RESOURCES
    | {"description": "what the target takes, while it is made, of what is limited"},
    "executor": {"type": "string", "description": "the name of the executor that is to make it"},
}


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes."""
    definitions: dict[str, Any] = {}
    branches = []
    for kind in kinds():
        step = step_of(kind)
        assert step is not None
        schema = step.fields.model_json_schema(ref_template="#/$defs/{model}")
        describe(schema, described(kind, step.fields))
        records = schema.pop("$defs", {})
        for model in nested(step.fields):
            describe(records[model.__name__], described(model.__name__, model))
        definitions |= records
        schema["properties"] = (
            {"kind": {"const": kind, "description": step.summary}} | schema["properties"] | COMMON
        )
        if required := schema.pop("required", []):
            # A matrix gives the fields of its axes.
            schema |= {"if": {"not": {"required": ["matrix"]}}, "then": {"required": required}}
        schema["required"] = ["kind"]
        definitions[kind] = schema
        branches.append(
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{kind}"},
            }
        )
    definitions["target"] = {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": list(kinds()), "description": "what the target is"}},
        "allOf": branches,
    }
    executors = [executor_schema(model) for model in MODELS.values()]
    names = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "olivebuild recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["targets"],
        "properties": {
            "version": {"const": 1, "description": "the version of this format"},
            "default": {
                "description": "a target or a list of them, built when none is named",
                "anyOf": [names, {"type": "array", "items": names}],
            },
            "cache": _record(Cache) | {"description": "the cache of all recipes"},
            "resources": RESOURCES | {"description": "how much there is of each named resource"},
            "numerics": {
                "description": "strict: processor, threads and GPU are part of every key "
                "that they can change the result of",
                "enum": list(NUMERICS),
            },
            "executors": {
                "description": "machines on which targets are to be made, by name",
                "type": "object",
                "additionalProperties": {"oneOf": executors},
            },
            "targets": {
                "description": "name -> target: what is to be made, and from what",
                "type": "object",
                "minProperties": 1,
                "propertyNames": names | {"not": {"enum": sorted(COMMANDS)}},
                "additionalProperties": {"$ref": "#/$defs/target"},
            },
        },
        "$defs": definitions,
    }


def executor_schema(model: type[Machine]) -> dict[str, Any]:
    """Return the schema of a kind of executor."""
    schema = _record(model)
    schema["required"] = ["kind"]
    return schema


def _record(model: type[Fields]) -> dict[str, Any]:
    """Return the schema of a record beside the targets, with descriptions."""
    schema = model.model_json_schema()
    describe(schema, described(model.__name__, model))
    schema["description"] = plain(inspect.getdoc(model) or "")
    return schema
