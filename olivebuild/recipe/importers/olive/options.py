"""Options of a pass: each read once, with the release's default where it is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from olivebuild.recipe.importers.olive import table
from olivebuild.recipe.importers.olive.draft import Alternatives, DraftTarget
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Path, Placeholder

T = TypeVar("T", bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option's value, and what it comes from: its place in the file, or a default."""

    value: object
    paths: tuple[Path, ...] = ()
    note: str = ""

    @property
    def given(self) -> bool:
        """Tell whether the file says it."""
        return bool(self.paths)

    @property
    def open(self) -> bool:
        """Tell whether it is left to the user of the file, or to a search."""
        return isinstance(self.value, Placeholder | Alternatives)

    @property
    def true(self) -> bool:
        return self.value is True

    @property
    def number(self) -> float | None:
        """Return a number; None for anything else."""
        value = self.value
        return None if isinstance(value, bool) or not isinstance(value, int | float) else value

    @property
    def text(self) -> str | None:
        return self.value if isinstance(self.value, str) else None


class Options:
    """The options of a pass of the table, or its training arguments."""

    def __init__(self, workflow: Workflow, section: Section, name: str) -> None:
        self.workflow = workflow
        self.section = section
        self.name = name
        self.fields = table.fields_of(name)

    def read(self, key: str, kind: type[T]) -> Option:
        """Return an option. The caller claims its leaf; what does not count is claimed here."""
        if key not in self.section:
            return self._default(key)
        if not self.fields[key].taken(self.workflow.generation.version):
            self.section.meant_else(key, table.ignored(self.workflow, key))
            return self._default(key)
        if self.section.value[key] in (None, "DEFAULT_VALUE"):
            self.section.no_effect(key, "the same as leaving it out")
            return self._default(key)
        if self._searched(key):
            return self._alternatives(key, kind)
        value = self.section.get(key, kind)
        if value is None:
            return self._default(key)
        return Option(value=value, paths=(self.section.at(key),))

    def put(self, target: DraftTarget, field: str, key: str, kind: type[T]) -> Option:
        """Write an option into a field of the recipe, also where it is the release's default."""
        option = self.read(key, kind)
        if option.value is not None:
            self.write(target, field, option)
        return option

    def write(
        self,
        target: DraftTarget,
        field: str,
        option: Option,
        value: object = None,
        note: str = "",
    ) -> None:
        """Write an option that was read, or the `value` made of it, and claim its leaf."""
        written = option.value if value is None else value
        target.set(field, written, *option.paths, note=note or option.note)
        for path in option.paths:
            self.workflow.ledger.mapped(path, f"{target.name}.{field}", note)

    def rest(self) -> None:
        """Claim what no one read."""
        table.claim_rest(self.workflow, self.section, self.name)

    def _default(self, key: str) -> Option:
        generation = self.workflow.generation
        value = self.fields[key].default(generation.version)
        return Option(value=value, note=f"Olive {generation.name}'s default")

    def _searched(self, key: str) -> bool:
        value = self.section.value[key]
        is_range = isinstance(value, dict) and "olive_parameter_type" in value
        return is_range or value == "SEARCHABLE_VALUES"

    def _alternatives(self, key: str, kind: type[T]) -> Option:
        """Return the values among which a search would choose; without one the default."""
        value = self.section.value[key]
        if not self.workflow.search:
            self.section.no_effect(key, "without a search the default counts")
            return self._default(key)
        if not isinstance(value, dict):
            self.section.refused(
                key,
                "which values Olive would try is in its code, not in the file",
                "write the values: a pass each, as a list",
            )
            return self._default(key)
        support = value.get("support")
        if isinstance(support, list) and support and all(isinstance(v, kind) for v in support):
            self.section.mapped(key, "matrix")
            return Option(value=Alternatives(values=tuple(support)), paths=(self.section.at(key),))
        self.section.refused(
            key, "a search over more than a list of values", "write `support` as a list"
        )
        return self._default(key)
