"""Placeholders of a recipe: `<placeholder: TEXT>` stands for a value that its user is to fill in.

A recipe with placeholders is read and planned. Only what needs such a value is not built.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from olivebuild.core.errors import RecipeError, Where

if TYPE_CHECKING:
    from olivebuild.api.node import Node, Outline
    from olivebuild.recipe.document import Path

MARK = "<placeholder:"
STAND_IN = "placeholder"


def text_of(value: object) -> str | None:
    """Return the text of a placeholder; None for other values."""
    if isinstance(value, str) and value.startswith(MARK):
        return value.removeprefix(MARK).removesuffix(">").strip()
    return None


def within(value: object, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of each placeholder in a value."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from within(below, (*path, key))
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from within(below, (*path, i))
    elif (text := text_of(value)) is not None:
        yield path, text


def without(value: dict[str, object], paths: Collection[Path]) -> dict[str, object]:
    """Return a mapping without the fields at some paths; other placeholders are a plain word.

    Of a list no item can be left out without changing what it says, so the list is.
    """
    below = {path[0] for path in paths}
    result: dict[str, object] = {}
    for key, item in value.items():
        if key not in below:
            result[key] = _stood_for(item)
        elif isinstance(item, dict):
            result[key] = without(item, [path[1:] for path in paths if path[0] == key])
    return result


def _stood_for(value: object) -> object:
    """Return a value with a word in place of each placeholder."""
    if isinstance(value, dict):
        return {key: _stood_for(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_stood_for(item) for item in value]
    return STAND_IN if text_of(value) is not None else value


def listed(goals: Sequence[str]) -> str:
    """Return goals as the subject of what they need."""
    *others, last = goals
    return f"{', '.join(others)} and {last} need" if others else f"{last} needs"


def check(
    nodes: Iterable[Node],
    targets: Mapping[str, Outline],
    goals: Sequence[str],
    lines: list[str],
    file: str,
) -> None:
    """Raise RecipeError for the first placeholder of a node; `goals` are what needs them all."""
    for node in nodes:
        target = targets[node.target]
        for field, text in target.placeholders.items():
            line, column, override = target.positions.get(field, (0, 0, ""))
            shown = lines[line - 1] if 0 < line <= len(lines) else ""
            needs = "" if target.name in goals else f", which {listed(goals)}"
            raise RecipeError(
                f"{target.name}.{field} is a placeholder ({text}){needs}",
                where=Where(override or file, line, column, shown),
                hint=f"write its value there, or --set {target.name}.{field}=VALUE",
            )
