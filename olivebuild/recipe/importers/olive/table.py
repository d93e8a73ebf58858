"""Table of the fields of Olive's passes.

Which releases take them, what they default to, and what becomes of those that no mapper reads. The
data is fields.toml beside this module.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path as File
from typing import Any

from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.tell_tales import JULY, MAIN, Version
from olivebuild.recipe.importers.olive.workflow import Workflow

NEIGHBOURS: tuple[Version, Version] = ((0, 6, 2), (0, 7, 0))
"""The releases around July 2024, of which that main branch took the fields of both."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """An option of a pass."""

    first: Version
    last: Version
    fate: str = ""
    """`none.KEY`, `no.KEY`, `script`, or "" where a mapper reads it."""
    defaults: tuple[tuple[Version, object], ...] = ()

    def taken(self, version: Version) -> bool:
        """Return whether a release takes it."""
        if version == JULY and any(self.first <= v <= self.last for v in NEIGHBOURS):
            return True
        return self.first <= version <= self.last

    def default(self, version: Version) -> object:
        """Return what holds in a release where a file leaves it out; None: nothing."""
        at = (0, 6, 2) if version == JULY else version
        earlier = [value for first, value in self.defaults if first <= at]
        if earlier:
            return earlier[-1]
        return self.defaults[0][1] if self.defaults else None


@cache
def _read() -> dict[str, Any]:
    with open(File(__file__).with_name("fields.toml"), "rb") as f:
        return tomllib.load(f)


@cache
def fields_of(name: str) -> Mapping[str, Field]:
    """Return the fields of a pass, by its class name, or of `training_args`."""
    return {key: _field(entry) for key, entry in _read()["fields"][name].items()}


@cache
def sections() -> Mapping[str, str]:
    """Return the passes of the table: the name in lower case -> the class name."""
    return {name.lower(): name for name in _read()["fields"] if name != "training_args"}


def default(name: str, key: str, version: Version) -> object:
    """Return the default of a field of a pass in a release."""
    return fields_of(name)[key].default(version)


def _field(entry: dict[str, Any]) -> Field:
    first, _, last = entry["in"].partition("-")
    value = entry.get("default")
    steps = value if isinstance(value, list) else [] if value is None else [["0.1", value]]
    return Field(
        first=_version(first),
        last=_version(last) if last else MAIN,
        fate=entry.get("as", ""),
        defaults=tuple((_version(start), at) for start, at in steps),
    )


def _version(text: str) -> Version:
    numbers = [int(n) for n in text.split(".")]
    major, minor, patch = [*numbers, 0, 0][:3]
    return major, minor, patch


def claim_rest(workflow: Workflow, section: Section, name: str) -> None:
    """Claim the options of a pass that no mapper read; unknown ones are refused.

    An option that the release does not take, or that is another pass's, is what Olive ignores.
    """
    fields = fields_of(name)
    claim_empty(section)
    for key in section.value:
        if not workflow.ledger.unclaimed(section.at(key)):
            continue
        field = fields.get(key)
        if field is None:
            if _of_other_pass(key):
                section.meant_else(key, f"{_called(name)} has no such field: Olive ignores it")
        elif not field.taken(workflow.generation.version):
            section.meant_else(key, ignored(workflow, key))
        else:
            _claim(workflow, section, key, field)
    section.unknown(fields)


def claim_empty(section: Section) -> None:
    """Claim the mappings and lists below a section that have nothing in them."""
    leaves = section.ledger.document.leaves()
    for leaf in section.ledger.unclaimed(section.path):
        if leaves[leaf] in ({}, []):
            section.ledger.no_effect(leaf, "it is empty")


def ignored(workflow: Workflow, key: str) -> str:
    """Return what is said of a field that the release does not take."""
    return f"Olive {workflow.generation.name} has no field {key} and ignores it with a warning"


def _called(name: str) -> str:
    return "a training argument" if name == "training_args" else name


def _of_other_pass(key: str) -> bool:
    return any(
        key in fields for name, fields in _read()["fields"].items() if name != "training_args"
    )


def _claim(workflow: Workflow, section: Section, key: str, field: Field) -> None:
    kind, _, word = field.fate.partition(".")
    if kind == "none":
        section.no_effect(key, _read()["reasons"][word])
    elif kind == "script":
        section.no_effect(key, "no option names a function of it, and it is not run")
    elif kind == "no":
        value = section.value[key]
        if value in (None, False, [], {}) or value == field.default(workflow.generation.version):
            section.no_effect(key, "it is what holds here anyway")
        else:
            fact, hint = _read()["refusals"][word]
            section.refused(key, fact, hint)
