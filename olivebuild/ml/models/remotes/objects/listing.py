"""Objects that a path names: one, those of a folder, or those that match a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from olivebuild.core.errors import InputError
from olivebuild.formats.source import WILD
from olivebuild.ml.models.remotes.objects.opened import Opened

MOST = 100_000
"""Objects of one source."""
PAGE = 1000


class File(NamedTuple):
    """An object: its path in the container, and its name below the folder that was named.

    `size` is in bytes. `etag` is without quotes; `version` is "" where the store keeps no versions.
    """

    path: str
    name: str
    size: int
    etag: str
    version: str = ""


def files_of(opened: Opened, path: str) -> list[File]:
    """Return the objects that `path` names, sorted by name. Raises InputError."""
    try:
        if any(c in path for c in WILD):
            files = list(_matching(opened, path))
            if not files:
                raise InputError(
                    f"{opened.text}: it matches no object",
                    where=opened.where,
                    hint="`*` stops at a slash, `**` does not",
                )
            return files
        one = None if path.endswith("/") else _one(opened, path)
        # A folder may have an object of its own, without content.
        if one and one.size:
            return [one]
        files = list(_below(opened, path.rstrip("/") + "/"))
    except InputError:
        raise
    except Exception as e:  # noqa: BLE001
        # obstore passes on errors of its transport.
        raise opened.error(e) from None
    if files or one:
        return files or [one] if one else files
    raise InputError(
        f"{opened.text}: it does not exist",
        where=opened.where,
        hint="are the container and the path right? Names differ in upper and lower case",
    )


def _one(opened: Opened, path: str) -> File | None:
    """Return the object at a path. Raises the store's errors, but for one that is not there."""
    import obstore

    try:
        meta = obstore.head(opened.store, path)
    except FileNotFoundError:
        return None
    return _file(meta, path.rpartition("/")[2])


def _matching(opened: Opened, pattern: str) -> Iterator[File]:
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    folder = fixed.rpartition("/")[0]
    matches = re.compile(as_regex(pattern))
    for file in _below(opened, f"{folder}/" if folder else ""):
        if matches.fullmatch(file.path):
            yield file


def _below(opened: Opened, prefix: str) -> Iterator[File]:
    """Yield the objects below a folder, in the order of names. Raises the store's errors.

    Objects without content that stand for folders are left out.
    """
    import obstore

    metas: list[Any] = []
    for page in obstore.list(opened.store, prefix or None, chunk_size=PAGE):
        metas += page
        if len(metas) > MOST:
            raise InputError(
                f"{opened.text}: it names more than {MOST} objects",
                where=opened.where,
                hint="name a folder further down",
            )
    files = sorted((_file(m, m["path"].removeprefix(prefix)) for m in metas), key=lambda f: f.name)
    folders = {parent for file in files for parent in _parents(file.name)}
    for file in files:
        if file.name in folders or not file.name:
            if file.size:
                raise _unusable(opened, file.path, "it is an object and a folder")
            continue
        parts = file.name.split("/")
        if any(part in ("", ".", "..") or not part.isprintable() for part in parts) or any(
            c in file.name for c in "\\:"
        ):
            raise _unusable(opened, file.path, "no file can have this name on every system")
        yield file


def _parents(name: str) -> Sequence[str]:
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def _unusable(opened: Opened, path: str, fact: str) -> InputError:
    hint = "name a folder or a pattern without it"
    return InputError(f"{opened.text}: {path!r}: {fact}", where=opened.where, hint=hint)


def _file(meta: Any, name: str) -> File:
    etag = str(meta["e_tag"] or "").removeprefix("W/").strip('"')
    return File(str(meta["path"]), name, int(meta["size"]), etag, str(meta["version"] or ""))


def as_regex(pattern: str) -> str:
    """Return a glob pattern as a regular expression: `*` stops at a slash, `**` does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        words.get(part)
        or (
            f"[{'^' if part[1] == '!' else ''}{re.escape(part[1:-1].lstrip('!'))}]".replace(
                r"\-", "-"
            )
            if i % 2
            else re.escape(part)
        )
        for i, part in enumerate(parts)
    )
