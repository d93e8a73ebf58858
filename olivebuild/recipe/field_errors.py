"""Errors of fields: what pydantic says of a mapping, as one error with its place in the recipe."""

from __future__ import annotations

from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from olivebuild.api.fields import Fields
from olivebuild.core.errors import HasCredential, InvalidValue, Problem, RecipeError, Where
from olivebuild.core.text import did_you_mean
from olivebuild.recipe import document
from olivebuild.recipe.document import Document

F = TypeVar("F", bound=Fields)


def validate(doc: Document, model: type[F], value: object, path: document.Path, name: str) -> F:
    """Return a model of a mapping. Raises RecipeError with the place of the first fault."""
    try:
        return model.model_validate(value)
    except ValidationError as e:
        raise _explain(doc, e, model, path, name) from None


def faults(model: type[Fields], value: object) -> int:
    """Return the number of faults that a model finds in a mapping."""
    try:
        model.model_validate(value)
    except ValidationError as e:
        return e.error_count()
    return 0


def _explain(
    doc: Document, error: ValidationError, model: type[Fields], path: document.Path, name: str
) -> RecipeError:
    """Return the error of the recipe that pydantic's errors stand for."""
    errors = error.errors(include_url=False)
    # A misspelt key explains a missing one. Of the errors of a union's types, the one that reaches
    # deepest into the file is of the type that was meant.
    first = max(
        errors,
        key=lambda e: (
            e["type"] == "extra_forbidden",
            e["type"] == "missing",
            len(_in_file(doc, path, e["loc"])),
        ),
    )
    place = _in_file(doc, path, first["loc"])
    label = ".".join(str(p) for p in place[len(path) :])
    if first["type"] == "extra_forbidden":
        keys = _known_keys(model, [str(p) for p in first["loc"][:-1]])
        return unknown(doc, place, "key", str(first["loc"][-1]), keys, f" in {name}")
    if first["type"] == "missing":
        missing = ".".join(str(p) for p in first["loc"])
        return RecipeError(
            f"{name} has no {missing}", where=doc.where(path), hint=f"add `{missing}:`"
        )
    fact, hint = _problem(first)
    fact = fact[:1].lower() + fact[1:]
    where = doc.where(place)
    if isinstance(first.get("ctx", {}).get("error"), HasCredential):
        where = Where(where.file, where.line, where.column) if where.line else Where("--set")
    return RecipeError(
        f"{name}.{label}: {fact}" if label else f"{name}: {fact}",
        where=where,
        hint=hint or "`olivebuild schema` tells what each field takes",
    )


def _problem(error: ErrorDetails) -> Problem:
    """Return the problem of an error of pydantic, or of the validator of a field that it called."""
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, InvalidValue):
        return cause.problem
    return Problem.from_text(str(cause)) if cause else Problem(error["msg"])


def _in_file(doc: Document, path: document.Path, loc: Iterable[str | int]) -> document.Path:
    """Return the part of pydantic's location that is in the file or on the command line.

    Unions add names of their own to locations.
    """
    for part in loc:
        longer = (*path, part)
        if longer in doc.places or any(p[: len(longer)] == longer for p in doc.overrides):
            path = longer
    return path


def _known_keys(model: type[Fields], loc: list[str]) -> list[str]:
    for part in loc:
        info = model.model_fields.get(part)
        types = types_of(info.annotation) if info else ()
        model = next((t for t in types if isinstance(t, type) and issubclass(t, Fields)), model)
    return [
        *(info.alias or name for name, info in model.model_fields.items()),
        *(["kind"] if not loc else []),
    ]


def unknown(
    doc: Document, path: document.Path, what: str, word: str, names: Iterable[str], suffix: str = ""
) -> RecipeError:
    return RecipeError(
        f"unknown {what} {word!r}{suffix}", where=doc.where(path), hint=did_you_mean(word, names)
    )


def types_of(annotation: Any) -> set[Any]:
    """Return the types of a union, without the metadata of Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return types_of(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set().union(*map(types_of, get_args(annotation)))
    return {annotation}
