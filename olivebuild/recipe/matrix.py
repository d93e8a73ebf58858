"""Expansion of `matrix:`: a target for each combination of its axes, with a name of its own.

It knows nothing of kinds.

`int4: {matrix: {block_size: [32, 64], provider: [cpu, cuda]}}` stands for int4-32-cpu,
int4-32-cuda, int4-64-cpu and int4-64-cuda.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.document import Document, Path

MAX_MEMBERS = 10_000
RESERVED = ("kind", "matrix", "resources", "executor")
EXAMPLE = "matrix: {block_size: [32, 64], provider: [cpu, cuda]}"


class Matrices:
    """The targets of a recipe, with each matrix replaced by its members.

    Positions of members lead to the matrix. `members` maps the name of a matrix to the names of
    its members.
    """

    def __init__(self, doc: Document, raw: dict[str, object]) -> None:
        self._doc, self._raw = doc, raw
        self.members: dict[str, tuple[str, ...]] = {}
        self._open: list[str] = []
        self._expanded: dict[str, dict[str, object]] = {}
        self._places: dict[str, list[Path]] = {}
        if any(isinstance(value, dict) and "matrix" in value for value in raw.values()):
            for path in doc.places:
                if len(path) > 1:
                    self._places.setdefault(str(path[1]), []).append(path)

    def expanded(self) -> dict[str, object]:
        """Return the targets with members in place of matrices. Raises RecipeError."""
        result: dict[str, object] = {}
        for name, value in self._raw.items():
            is_matrix = isinstance(value, dict) and "matrix" in value
            members = self._expand(name) if is_matrix else {name: value}
            for member in members:
                if member in result or (member != name and member in self._raw):
                    fact = f"{name} has a member of the name {member}, which there is already"
                    raise RecipeError(
                        fact,
                        where=self._doc.where(("targets", name, "matrix")),
                        hint="rename one of the two",
                    )
            result |= members
        return result

    def _expand(self, name: str) -> dict[str, object]:
        """Return the members of a matrix by name. Raises RecipeError."""
        if name in self._expanded:
            return self._expanded[name]
        where = self._doc.where(("targets", name, "matrix"))
        if name in self._open:
            chain = " -> ".join([*self._open[self._open.index(name) :], name])
            raise RecipeError(
                f"matrices that are made of each other: {chain}",
                where=where,
                hint="an axis lists values, or another matrix's name",
            )
        self._open.append(name)
        value = self._raw[name]
        assert isinstance(value, dict)
        axes = self._axes(name, value)
        count = 1
        for values in axes.values():
            count *= len(values)
        if count > MAX_MEMBERS:
            raise RecipeError(
                f"{name} would be {count} targets",
                where=where,
                hint=f"at most {MAX_MEMBERS} can be",
            )
        members: dict[str, object] = {}
        for choice in product(*axes.values()):
            member = "-".join([name, *map(_word, choice)])
            if member in members:
                raise RecipeError(
                    f"two members of {name} would be called {member}",
                    where=where,
                    hint="give each value of an axis once",
                )
            members[member] = _with(value, dict(zip(axes, choice, strict=True)))
            self._place(name, member, list(axes))
        self.members[name] = tuple(members)
        self._expanded[name] = members
        self._open.pop()
        return members

    def _axes(self, name: str, value: dict[str, Any]) -> dict[str, list[object]]:
        """Return the values of each axis, matrices replaced by members. Raises RecipeError."""
        matrix = value["matrix"]
        if not isinstance(matrix, dict) or not matrix:
            raise RecipeError(
                f"the matrix of {name} must name fields, each with a list of values",
                where=self._doc.where(("targets", name, "matrix")),
                hint=EXAMPLE,
            )
        axes: dict[str, list[object]] = {}
        for axis, values in matrix.items():
            self._check_axis(name, value, axis, values)
            axes[axis] = []
            for item in values:
                axes[axis] += self.names(item)
        return axes

    def _check_axis(self, name: str, value: dict[str, Any], axis: str, values: Any) -> None:
        """Raise RecipeError for an axis that is no field, has no values, or is said twice."""
        where = self._doc.where(("targets", name, "matrix", axis))
        if axis in RESERVED or not all(axis.split(".")):
            raise RecipeError(
                f"{axis!r} can't be an axis of a matrix",
                where=where,
                hint="an axis is a field, such as block_size or training.lr",
            )
        has_values = isinstance(values, list) and len(values) > 0
        if not has_values or any(isinstance(v, dict) for v in values):
            raise RecipeError(
                f"the axis {axis} of {name} must be a list of values", where=where, hint=EXAMPLE
            )
        above = [other for other in value["matrix"] if axis.startswith(f"{other}.")]
        if above or _has_field(value, axis):
            raise RecipeError(
                f"{axis} is a field of {name} and an axis of its matrix",
                where=where,
                hint="keep one of them",
            )

    def names(self, value: object) -> list[object]:
        """Return the members of a matrix, or their outputs, for its name; else the value itself."""
        name, dot, output = value.partition(".") if isinstance(value, str) else ("", "", "")
        target = self._raw.get(name)
        if not (isinstance(target, dict) and "matrix" in target):
            return [value]
        return [member + dot + output for member in self._expand(name)]

    def _place(self, name: str, member: str, axes: list[str]) -> None:
        doc, axes_at = self._doc, ("targets", name, "matrix")
        for path in self._places.get(name, ()):
            if path[0] == "targets" and path[:3] != axes_at:
                doc.places["targets", member, *path[2:]] = doc.places[path]
        for axis in axes:
            doc.places["targets", member, *axis.split(".")] = doc.places.get(
                (*axes_at, axis), doc.places.get(axes_at, (1, 1))
            )
        for path, text in list(doc.overrides.items()):
            if path[:2] == ("targets", name):
                doc.overrides["targets", member, *path[2:]] = text


def _word(value: object) -> str:
    """Return a value as a part of a name."""
    text = "_".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^a-z0-9_-]", "_", text.lower()) or "none"


def _has_field(value: dict[str, Any], axis: str) -> bool:
    table: Any = value
    for part in axis.split("."):
        if not isinstance(table, dict) or part not in table:
            return False
        table = table[part]
    return True


def _with(value: dict[str, Any], choice: dict[str, object]) -> dict[str, object]:
    """Return a target with the chosen values of the axes in place of its matrix."""
    result: dict[str, Any] = {k: v for k, v in value.items() if k != "matrix"}
    for axis, chosen in choice.items():
        *above, last = axis.split(".")
        table = result
        for part in above:
            below = table.get(part, {})
            # A value that is no mapping is reported when the fields are checked.
            table[part] = dict(below) if isinstance(below, dict) else {}
            table = table[part]
        table[last] = chosen
    return result


def kinds_of_targets(doc: Document) -> dict[str, str]:
    """Return the kind of each target by its name, those of matrices beside their members.

    Nothing is checked: for a shell that completes names. Raises RecipeError.
    """
    targets = doc.value.get("targets") if isinstance(doc.value, dict) else None
    raw = targets if isinstance(targets, dict) else {}
    named = raw | Matrices(doc, raw).expanded()
    return {
        name: str(value["kind"])
        for name, value in named.items()
        if isinstance(value, dict) and "kind" in value
    }
