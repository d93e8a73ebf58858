"""Types of which the fields of a kind are made. A part of the interface for kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from olivebuild.core.errors import Problem


class Fields(BaseModel):
    """The recipe fields of a kind. Unknown keys are errors, and numbers are not made from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Alternatives:
    """Fields that don't go together: a target has those of one group.

    A field's name is its path in the target, `training.epochs`. Where `--set` gives a field of one
    group, those of the others are left out; `fact` and `hint` are what a recipe is told that has
    several.
    """

    groups: tuple[tuple[str, ...], ...]
    fact: str = ""
    hint: str = ""
    only_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The first field of a group -> fields that have a meaning with that group alone. To give one
    of them chooses nothing.
    """

    def problem(self, fields: Fields) -> Problem | None:
        """Return the problem of fields that have more than one group; None if they don't."""
        count = sum(any(is_written(fields, name) for name in group) for group in self.groups)
        return Problem(self.fact, self.hint) if count > 1 else None

    def replaced(self, name: str) -> Iterator[str]:
        """Yield the fields that are left out where `name` is given."""
        for group in self.groups:
            if any(name in others for others in self.groups) and name not in group:
                yield from (*group, *self.only_with.get(group[0], ()))


def only_one(*names: str, fact: str, hint: str) -> Alternatives:
    """Return alternatives of a field each."""
    return Alternatives(groups=tuple((name,) for name in names), fact=fact, hint=hint)


def is_written(fields: Fields, name: str) -> bool:
    """Return whether a recipe gives a field a value, and not the empty one."""
    value: object = fields
    for part in name.split("."):
        if not isinstance(value, Fields) or part not in value.model_fields_set:
            return False
        value = getattr(value, part)
    return value is not None and value != {}


def first_problem(alternatives: Iterable[Alternatives], fields: Fields) -> Problem | None:
    """Return the first problem of several alternatives, if any."""
    return next((problem for a in alternatives if (problem := a.problem(fields))), None)
