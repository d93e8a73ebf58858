"""Parameters of a data component, which stand in up to five places of a data configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.olive.options import Option
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.positions import Path

T = TypeVar("T", bool, int, float, str)
AROUND = ("type", "name", "params")
"""Keys of a component that are no parameters."""


class Params:
    """The parameters of `load_dataset` or `pre_process_data`; earlier places win."""

    def __init__(self, config: Section, component: str) -> None:
        self.config = config
        self.component = component
        self.types: list[Section] = []
        """The places that may say the component's `type`."""
        self.sections: list[Section] = []
        self._flat: Section | None = None
        section = config.section(f"{component}_config")
        if section is not None:
            self._add(section)
        flat = config.section("params_config")
        if flat is not None:
            self._flat = flat
            kwargs = flat.section("component_kwargs")
            if kwargs is not None and (below := kwargs.section(component)) is not None:
                self.sections.append(below)
        components = config.section("components")
        if components is not None and (below := components.section(component)) is not None:
            self._add(below)
        if flat is not None:
            self.sections.append(flat)

    def _add(self, section: Section) -> None:
        self.types.append(section)
        if (params := section.section("params")) is not None:
            self.sections.append(params)
        self.sections.append(section)

    def __contains__(self, key: str) -> bool:
        return any(key in section for section in self.sections)

    def holder(self, key: str) -> Section | None:
        """Return the section whose value counts; the others' leaves are claimed."""
        there = [s for s in self.sections if s.value.get(key) is not None]
        for section in self.sections:
            if key in section and section not in there[:1]:
                why = "another place of the same parameter wins" if there else "null: left out"
                section.no_effect(key, why)
        return there[0] if there else None

    def get(self, key: str, kind: type[T]) -> Option:
        """Return a parameter; of value None where it is not there. The caller claims it."""
        section = self.holder(key)
        value = section.get(key, kind) if section else None
        if section is None or value is None:
            return Option(value=None)
        return Option(value=value, paths=(section.at(key),))

    def null(self, key: str) -> Path | None:
        """Return the place of a parameter that is null and nothing else anywhere."""
        there = [s for s in self.sections if key in s]
        if there and all(s.value[key] is None for s in there):
            return there[0].at(key)
        return None

    def type(self) -> Option:
        """Return the registered function that is used, where the file names one."""
        for section in self.types:
            value = section.get("type", str)
            if value is not None:
                return Option(value=value, paths=(section.at("type"),))
        return Option(value=None)

    def no_effect(self, key: str, because: str) -> None:
        for section in self.sections:
            if key in section:
                section.no_effect(key, because)

    def meant_else(self, key: str, does: str) -> None:
        for section in self.sections:
            if key in section:
                section.meant_else(key, does)

    def unknown(self, field_names: Iterable[str]) -> None:
        """Refuse the keys that are none in the places that are this component's alone."""
        names = [*field_names, *AROUND]
        for section in self.sections:
            for key in section.value:
                if section is not self._flat and key not in names:
                    hint = did_you_mean(key, names)
                    section.refused(key, f"unknown field {key!r}", hint)
