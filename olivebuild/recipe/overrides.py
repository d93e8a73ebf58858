"""Overrides of one call: `--set TARGET.FIELD=VALUE`, and what each leaves out of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from olivebuild.api.step import KINDS, kinds, step_of
from olivebuild.core.errors import RecipeError, Where
from olivebuild.recipe import document
from olivebuild.recipe.document import Document


def override(doc: Document, raw: dict[str, Any], setting: str, notes: list[str]) -> bool:
    """Apply an override such as `adapter.training.lr=2e-4`, and note the command line as its place.

    Fields of the recipe that don't go with it are left out, and `notes` says so. Return False when
    there is no such target, or none yet.
    """
    name, equals, text = setting.partition("=")
    path = name.split(".")
    where = Where(f"--set {setting}")
    if not equals or len(path) < 2:
        raise RecipeError(
            "--set takes TARGET.FIELD=VALUE",
            where=where,
            hint="for example --set adapter.training.lr=2e-4",
        )
    if path[0] not in raw:
        return False
    table = raw
    for part in path[:-1]:
        below = table.get(part, {})
        if not isinstance(below, dict):
            raise RecipeError(
                f"{part} has no fields of its own",
                where=where,
                hint="`olivebuild schema` tells what each field takes",
            )
        # Members of a matrix share the tables that they were made from.
        table[part] = below = dict(below)
        table = below
    table[path[-1]] = document.parse_value(text)
    doc.overrides["targets", *path] = f"--set {setting}"
    if dropped := list(_drop_others(doc, raw[path[0]], path)):
        notes.append(f"--set {setting} leaves out what does not go with it: {', '.join(dropped)}")
    return True


def _drop_others(doc: Document, target: dict[str, Any], path: list[str]) -> Iterator[str]:
    """Delete the fields that don't go with one that was set; yield each with its place."""
    kind = str(target.get("kind"))
    step = step_of(kind) if kind in KINDS or kind in kinds() else None
    if step is None:
        # Reported where the target is checked.
        return
    field, name = ".".join(path[1:]), path[0]
    for alternatives in step.alternatives:
        for group in alternatives.groups:
            for chosen in group:
                if _is_in(chosen, field) and _value(target, chosen) is not None:
                    for other in alternatives.replaced(chosen):
                        place = ("targets", name, *other.split("."))
                        if not _is_overridden(doc, place) and _delete(target, other):
                            yield f"{other} ({doc.where(place)})"


def _is_overridden(doc: Document, place: document.Path) -> bool:
    """Return whether the value at a place comes from the command line, which does not drop it."""
    return any(place[: len(path)] == path for path in doc.overrides)


def _is_in(field: str, other: str) -> bool:
    """Return whether setting `other` sets `field`: they are one, or one holds the other."""
    return f"{field}.".startswith(f"{other}.") or f"{other}.".startswith(f"{field}.")


def _value(target: dict[str, Any], field: str) -> Any:
    """Return the value of a field by its path in a target; None where there is none."""
    value: Any = target
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _delete(target: dict[str, Any], field: str) -> bool:
    """Delete a field by its path in a target; return whether it had a value."""
    *parts, last = field.split(".")
    table: Any = target
    for part in parts:
        if not isinstance(below := table.get(part), dict):
            return False
        # Members of a matrix share the tables that they were made from.
        table[part] = below = dict(below)
        table = below
    return table.pop(last, None) is not None
