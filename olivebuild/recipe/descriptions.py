"""Descriptions of a recipe's fields: the docstring below a field, or its text in fields.toml.

Only the JSON Schema and the reference read them, so that no other command pays for it.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
"""A link of Markdown, which editors show as it is written."""


@cache
def texts() -> dict[str, dict[str, str]]:
    """Return record -> field -> text, of fields.toml. A kind's record is called as the kind."""
    with open(Path(__file__).with_name("fields.toml"), "rb") as f:
        return tomllib.load(f)


def described(record: str, model: type[BaseModel]) -> dict[str, str]:
    """Return field -> description in Markdown, by the fields' names in a recipe."""
    described: dict[str, str] = {}
    for ancestor in reversed(model.__mro__):
        # Those that a record inherits are described where they are declared.
        if issubclass(ancestor, BaseModel) and ancestor.__module__ == model.__module__:
            described |= docstrings(ancestor)
    return described | texts().get(record, {})


def plain(text: str) -> str:
    """Return a description on one line, with the names of links alone."""
    return LINK.sub(r"\1", " ".join(text.split()))


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the string below each field, by the field's name in a recipe."""
    try:
        (class_def,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    except OSError:
        # The package may be installed without its source text.
        return {}
    assert isinstance(class_def, ast.ClassDef)
    result = {}
    for statement, below in zip(class_def.body, class_def.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            result[statement.target.id.rstrip("_")] = str(below.value.value)
    return result


def nested(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the records among a model's fields, `Training` of an adapter for example."""
    annotations = [field.annotation for field in model.model_fields.values()]
    candidates = [c for a in annotations for c in (a, *getattr(a, "__args__", ()))]
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]


def describe(schema: dict[str, Any], texts_by_field: Mapping[str, str]) -> None:
    """Give each property of an object's schema its description, where it has none."""
    for name, field in schema.get("properties", {}).items():
        if text := texts_by_field.get(name):
            field.setdefault("description", plain(text))
