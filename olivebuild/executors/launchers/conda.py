"""Conda files for a machine to which olivebuild's code is brought: its libraries alone.

What a conda file says of olivebuild, which may be a checkout of this machine, becomes what
olivebuild needs there, in the versions of this machine: they are part of keys.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from olivebuild.core import code_version, host
from olivebuild.core.errors import InputError, first_line
from olivebuild.core.fs.small_files import read_text

PYTHON = "python>=3.11"
OURS = "olivebuild"
DEFAULT_EXTRAS = frozenset(("cpu", "azure"))
NEEDED_EXTRA = "azure"
"""What a node reads an exchange with."""


def dependencies(conda: str, requirements: str = "") -> dict[str, Any]:
    """Return the content of a conda file, with olivebuild's libraries in the place of itself.

    Where only a file of requirements is named, they become a conda file. Raises InputError.
    """
    if conda:
        data = _read(conda)
        return data | {"dependencies": _expanded(data.get("dependencies") or [], conda)}
    lines = [line.strip() for line in _text(requirements).splitlines()]
    pip = [line for line in lines if line and not line.startswith("#")]
    entries = [PYTHON, "pip", {"pip": pip}]
    return {
        "name": OURS,
        "channels": ["conda-forge"],
        "dependencies": _expanded(entries, requirements),
    }


def _read(file: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(_text(file))
    except yaml.YAMLError as e:
        raise InputError(
            f"it is no YAML: {first_line(e)}", where=file, hint="see the line"
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("dependencies", []), list):
        raise InputError("it is no conda file", where=file, hint="it has a list `dependencies`")
    return data


def _text(file: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except (OSError, UnicodeError) as e:
        fact = getattr(e, "strerror", None) or str(e)
        raise InputError(
            f"it can't be read: {fact}", where=file, hint="it lies beside the recipe"
        ) from None


def _expanded(entries: list[Any], file: str) -> list[Any]:
    """Return dependencies with olivebuild's own in its place, or added where it is not named."""
    pip: object = next((e["pip"] for e in entries if isinstance(e, dict) and "pip" in e), [])
    if not isinstance(pip, list):
        raise InputError("its `pip` is no list", where=file, hint="write one requirement a line")
    extras, others = set[str](), []
    for line in map(str, pip):
        if (named := _extras(line)) is None:
            others.append(line)
        else:
            extras |= named
    taken = {name for line in others if (name := _name(line))}
    ours = [line for line in libraries(extras or DEFAULT_EXTRAS) if _name(line) not in taken]
    kept = [e for e in entries if not (isinstance(e, dict) and "pip" in e)]
    if not any(str(e).partition("=")[0].strip() == "pip" for e in kept):
        kept.append("pip")
    return [*kept, {"pip": [*others, *ours]}]


def _extras(line: str) -> set[str] | None:
    """Return the extras of a requirement of olivebuild, None for another's."""
    match = re.match(r"olivebuild\s*(?:\[([^\]]*)\])?\s*($|[=<>!~@;])", line)
    return {word.strip() for word in (match[1] or "").split(",") if word.strip()} if match else None


def _name(line: str) -> str:
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return ""


def libraries(extras: frozenset[str] | set[str]) -> list[str]:
    """Return what olivebuild with these extras needs, in the versions of this machine."""
    wanted: dict[str, str] = {}
    todo, seen = [*extras, NEEDED_EXTRA, ""], set[str]()
    while todo:
        extra = todo.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in _declared(extra):
            if canonicalize_name(requirement.name) == OURS:
                todo += requirement.extras
                continue
            wanted[requirement.name] = _pinned(requirement)
    return [wanted[name] for name in sorted(wanted)]


def _declared(extra: str) -> list[Requirement]:
    """Return what olivebuild says that it needs for an extra; "" for what it always needs.

    A checkout says so itself: what was installed may be older.
    """
    checkout = Path(code_version.ROOT).parent / "pyproject.toml"
    if checkout.is_file():
        project = tomllib.loads(read_text(checkout))["project"]
        lines = (
            project["optional-dependencies"].get(extra, ()) if extra else project["dependencies"]
        )
        return [Requirement(line) for line in lines]
    every = [Requirement(line) for line in metadata.requires(OURS) or ()]
    return [
        requirement
        for requirement in every
        if ("extra" in str(requirement.marker or "")) == bool(extra)
        and (not requirement.marker or requirement.marker.evaluate({"extra": extra}))
    ]


def _pinned(requirement: Requirement) -> str:
    """Return a requirement of the version that is installed here; as it is where none is."""
    words = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    version = host.installed(requirement.name)
    if version and requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name}{words}=={version}"
    return f"{requirement.name}{words}{requirement.specifier}"
