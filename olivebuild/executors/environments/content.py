"""What an environment elsewhere is made of: this package as it is, and versions of libraries."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from olivebuild.core import code_version, hashing
from olivebuild.core.errors import InputError

NAME = "olivebuild"
EXTRA = "steps"
"""The extra of this package that steps need."""
COMPILED = (".pyc", ".so", ".pyd")
"""Files that belong to a machine."""
EPOCH = (1980, 1, 1, 0, 0, 0)


def _files() -> Iterator[tuple[str, str]]:
    """Yield the name, from the package's parent on, and the path of each file."""
    parent = os.path.dirname(code_version.ROOT)
    for folder, below, files in os.walk(code_version.ROOT):
        below[:] = sorted(name for name in below if name != "__pycache__")
        for file in sorted(files):
            if file.endswith(COMPILED):
                continue
            path = os.path.join(folder, file)
            yield os.path.relpath(path, parent).replace(os.sep, "/"), path


def stamp() -> str:
    """Return a hash of the package's files."""
    return hashing.of_json([(name, hashing.of_bytes(_read(path))) for name, path in _files()])[:16]


def package() -> bytes:
    """Return the package as a zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in _files():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), _read(path))
    return out.getvalue()


def _read(path: str) -> bytes:
    with open(path, "rb") as f:
        return f.read()


def requirements(libraries: Mapping[str, str]) -> list[str]:
    """Return lines for pip: all that steps need, in the versions of a lock file, or else of here.

    `libraries`: library -> version. Raises InputError where this package's metadata is not there.
    """
    pinned = {canonicalize_name(name) for name in libraries}
    lines = {f"{name}=={version}" for name, version in libraries.items()}
    lines |= {_pinned(r) for r in _required(EXTRA) if canonicalize_name(r.name) not in pinned}
    return sorted(lines)


def least_requirements() -> list[str]:
    """Return lines for pip: what the package itself needs, as it says, and no library of steps.

    Raises InputError where this package's metadata is not there.
    """
    return sorted(f"{_name(needed)}{needed.specifier}" for needed in _required(""))


def _required(extra: str) -> list[Requirement]:
    try:
        lines = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        raise InputError(
            "this olivebuild is not installed, so what it needs is not known",
            hint="`pip install` it here, or name a `python:` that has it there",
        ) from None
    needed = map(Requirement, lines)
    return [r for r in needed if not r.marker or r.marker.evaluate({"extra": extra})]


def _name(needed: Requirement) -> str:
    extras = f"[{','.join(sorted(needed.extras))}]" if needed.extras else ""
    return f"{needed.name}{extras}"


def _pinned(needed: Requirement) -> str:
    """Return a requirement with the version that is installed here, else as it is written."""
    try:
        version = metadata.version(needed.name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return f"{_name(needed)}{needed.specifier}"
    return f"{_name(needed)}=={version}"
