"""The dependencies of a conda file: conda's packages, the list of pip, files of requirements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from olivebuild.recipe.document import Document
from olivebuild.recipe.importers.conda_lines import OLDEST_PYTHON, Entry, Reading, text_of
from olivebuild.recipe.importers.requirements import (
    Judged,
    allows_both,
    as_specifier,
    judge,
    judge_conda,
    judge_option,
)

Path_ = tuple[str | int, ...]
MAX_FILES = 20
NEWEST_MINOR = 14
OLDEST_PIP = Version("23.2")
"""Older ones don't run on Python 3.12."""
_SPEC = re.compile(
    r"(?:(?P<channel>[\w./:-]+)::)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<rest>.*)",
    re.DOTALL | re.ASCII,
)
_VERSION_AND_BUILD = re.compile(
    r"(={0,2}[^=\s<>!~]+|[<>!~][^\s,]*(?:\s*,\s*[^\s,]+)*)(?:[=\s]+(\S+))?"
)
_SELECTOR = re.compile(r"sel\([^)]*\)")


def choose_python(reading: Reading, dependencies: object) -> None:
    """Settle the new environment's Python before its requirements are read.

    Their conditions may depend on it.
    """
    for item in dependencies if isinstance(dependencies, list) else ():
        name, version, _ = split(item) if isinstance(item, str) else ("", "", "")
        if name == "python":
            minor = _minor_of(version)
            if minor is not None:
                reading.python = Version(f"3.{minor}")
                exact = re.fullmatch(r"={0,2}\s*(3\.\d+(?:\.\d+)?)(?:\.\*)?", version)
                reading.python_text = f"python={exact[1] if exact else reading.python}"


def read_dependencies(reading: Reading, read: Document, dependencies: list[object]) -> None:
    """Record each entry of `dependencies`."""
    for index, item in enumerate(dependencies):
        _read_item(reading, read, item, ("dependencies", index))


def _read_item(reading: Reading, read: Document, item: object, path: Path_) -> None:
    entry = entry_of(read, path, item)
    if item is None or item == "":
        reading.add(entry, Judged(outcome="ignored", because="it is empty"))
    elif isinstance(item, str):
        reading.add(entry, _judge_spec(reading, item))
    elif isinstance(item, dict) and item:
        for name, value in item.items():
            _read_mapping(reading, read, str(name), value, (*path, name))
    else:
        _refuse_all(reading, read, item, path)


def _read_mapping(reading: Reading, read: Document, name: str, value: object, path: Path_) -> None:
    """Record `pip: [...]`, or mamba's `sel(linux): package`."""
    if name == "pip" and isinstance(value, list) and value:
        for index, item in enumerate(value):
            _read_pip(reading, read, item, (*path, index))
    elif _SELECTOR.fullmatch(name) and isinstance(value, str):
        judged = _judge_spec(reading, value)
        because = f"{judged.because}; " if judged.because else ""
        because += f"{name} is a selector of mamba, and the line counts on every system here"
        reading.add(entry_of(read, path, value), replace(judged, because=because))
    elif name == "pip" and value in (None, []):
        reading.add(entry_of(read, path, value), Judged(outcome="ignored", because="it is empty"))
    else:
        _refuse_all(reading, read, value, path)


def _refuse_all(reading: Reading, read: Document, value: object, path: Path_) -> None:
    """Record each value below a path as no package."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _refuse_all(reading, read, item, (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            _refuse_all(reading, read, item, (*path, index))
    else:
        reading.add(entry_of(read, path, value), _no_package(value))


def _no_package(item: object) -> Judged:
    hint = "for example python=3.11, or pip with a list of requirements"
    return Judged(outcome="refused", because=f"{item!r} is no package", hint=hint)


def _read_pip(reading: Reading, read: Document, item: object, path: Path_) -> None:
    entry = entry_of(read, path, item)
    if item is None or item == "":
        reading.add(entry, Judged(outcome="ignored", because="it is empty"))
    elif isinstance(item, str):
        _read_requirement(reading, entry, reading.folder, ())
    else:
        _refuse_all(reading, read, item, path)


def _read_requirement(
    reading: Reading, entry: Entry, folder: Path, within: tuple[Path, ...]
) -> None:
    """Record one line as pip takes it, and those of a file that it names."""
    text = re.sub(r"(^|\s)#.*", "", entry.text).strip()
    if match := re.match(r"(?:-r|--requirement)(?:\s+|=)?(.*)", text):
        _read_file(reading, entry, folder, match[1].strip().strip("'\""), within)
    elif text.startswith("-"):
        reading.add(entry, judge_option(text, trust_index=reading.trust_index))
    else:
        reading.add(entry, judge(text, reading.python))


def _read_file(
    reading: Reading, entry: Entry, folder: Path, name: str, within: tuple[Path, ...]
) -> None:
    """Record the lines of a file of requirements, which lies beside the conda file or below."""
    refused = _check_file(reading, folder, name, within)
    if refused:
        reading.add(entry, refused)
        return
    file = (folder / name).resolve()
    try:
        text = text_of(file)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        because = f"{name} can't be read: {reason}"
        reading.add(entry, Judged(outcome="refused", because=because, hint="is it a text file?"))
        return
    shown = file.relative_to(reading.folder.resolve()).as_posix()
    lines = list(_logical_lines(text))
    reading.add(entry, Judged(outcome="mapped", to=f"the {len(lines)} lines of {shown}"))
    for number, line in lines:
        inner = Entry(file=shown, line=number, path=(shown, number), text=line, whole=line)
        _read_requirement(reading, inner, file.parent, (*within, file))


def _check_file(
    reading: Reading, folder: Path, name: str, within: tuple[Path, ...]
) -> Judged | None:
    """Return why a file of requirements is not read.

    It must be a file at or below the conda file's folder.
    """
    root, file = reading.folder.resolve(), (folder / name).resolve()
    if not name or "://" in name:
        because, hint = f"{name or '-r'} is no file on this disk", "put it beside the conda file"
    elif not file.is_relative_to(root):
        because, hint = f"{name} is not below the conda file's folder", "put it there"
    elif file in within or len(within) >= MAX_FILES:
        because, hint = f"{name} is read by itself", "leave this line out"
    elif not file.is_file():
        because, hint = f"there is no {name} beside the conda file", "put it there"
    else:
        return None
    return Judged(outcome="refused", because=because, hint=hint)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a file of requirements: continued lines joined, comments left out."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        joined += re.sub(r"(^|\s)#.*", "", line)
        if joined.endswith("\\"):
            joined = f"{joined[:-1].rstrip()} "
            continue
        if joined.strip():
            yield first, joined.strip()
        joined, first = "", 0
    if joined.strip():
        yield first, joined.strip()


def entry_of(read: Document, path: Path_, item: object) -> Entry:
    """Return an entry of the YAML file with its place."""
    where = read.where(path)
    text = item if isinstance(item, str) else "" if item is None else str(item)
    return Entry(file=read.file, line=where.line, path=path, text=text, whole=where.text)


def split(text: str) -> tuple[str, str, str]:
    """Return name, version and build of conda's `channel::name=version=build`.

    The name is "" where there is none.
    """
    match = _SPEC.fullmatch(re.sub(r"\s#.*", "", text).strip())
    if not match:
        return "", "", ""
    name, rest = match["name"].lower(), match["rest"].strip()
    if inner := re.fullmatch(r"\[(.*)\]", rest, re.DOTALL):
        version = re.search(r"""version\s*=\s*(['"])(.*?)\1""", inner[1])
        build = re.search(r"""build\s*=\s*(['"]?)([^'",\]]+)\1""", inner[1])
        return name, version[2] if version else "", build[2] if build else ""
    parts = _VERSION_AND_BUILD.fullmatch(rest)
    if not rest or not parts:
        return name, rest, ""
    return name, re.sub(r"\s", "", parts[1]), parts[2] or ""


def _judge_spec(reading: Reading, text: str) -> Judged:
    """Return what becomes of a package of conda's."""
    name, version, build = split(text)
    if not name:
        return _no_package(text)
    if name == "python":
        return _judge_python(reading, version)
    if name == "pip":
        return _judge_pip(reading, version)
    judged = judge_conda(name, version)
    if build and judged.outcome == "mapped":
        return replace(judged, because=f"its build {build} is left out: pip installs it")
    return judged


def _judge_python(reading: Reading, version: str) -> Judged:
    to = reading.python_text
    if _minor_of(version) is not None:
        return Judged(outcome="mapped", to=to)
    because = f"olivebuild needs Python {OLDEST_PYTHON} or newer"
    return Judged(outcome="differs", to=to, because=because)


def _minor_of(version: str) -> int | None:
    """Return the minor version of Python 3 that a range allows and olivebuild runs on.

    The oldest is tried first.
    """
    try:
        specifier = as_specifier(version)
    except InvalidSpecifier:
        return None
    for minor in range(OLDEST_PYTHON.minor, NEWEST_MINOR + 1):
        if allows_both(specifier, SpecifierSet(f"==3.{minor}.*")):
            return minor
    return None


def _judge_pip(reading: Reading, version: str) -> Judged:
    exact = re.fullmatch(r"={0,2}\s*([0-9][\w.]*)", version)
    try:
        pinned = Version(exact[1]) if exact else None
    except InvalidVersion:
        pinned = None
    if pinned and pinned < OLDEST_PIP:
        because = f"pip before {OLDEST_PIP} does not run on every Python that olivebuild does"
        return Judged(outcome="differs", to="pip", because=because)
    if pinned:
        reading.pip_text = f"pip={pinned}"
    return Judged(outcome="mapped", to=reading.pip_text)
