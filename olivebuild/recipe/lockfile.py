"""The lock file `olivebuild.lock`: pins, library versions, template date, name of the history.

It is made on first use, committed by users, and its pins are changed by `olivebuild update` alone.
The library versions are those that made the results, so that a machine without the libraries, such
as a CI runner, still finds the keys and restores.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.fs.locks import locked
from olivebuild.core.fs.small_files import read_json
from olivebuild.formats.template_clock import check_date

FILE_NAME = "olivebuild.lock"
HISTORY = re.compile(r"[0-9a-f]{32}")


class Lockfile:
    """The content of a lock file, and the changes of this build to it.

    `sources`: source text -> pin, which is a commit or a wheel's sha256. `libraries`: library ->
    version. `digests`: source text -> file -> SHA-256 of what was fetched from an object store,
    whose pin is no digest. `template_date`: the date for chat templates, empty until one is needed.
    `history`: 32 random hexadecimal digits by which all checkouts of a recipe find one history,
    empty until the first build is recorded. They say nothing of machine or user.

    Several builds, also of other recipes in the folder, may write at once: each adds its changes
    to the file's content.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        content = _load(file)
        self.sources = content.sources
        self.libraries = content.libraries
        self.digests = content.digests
        self.template_date = content.template_date
        self.history = content.history
        self._pinned: dict[str, str] = {}
        self._noted: dict[str, str] = {}
        self._fetched: dict[str, dict[str, str]] = {}
        self._new: set[str] = set()
        self._dated = ""
        self._first_date = False
        self._named = self._renamed = False

    def pin(self, source: str, value: str) -> None:
        if self.sources.get(source) == value:
            return
        if source not in self.sources:
            self._new.add(source)
        self.digests.pop(source, None)
        self._fetched.pop(source, None)
        self.sources[source] = self._pinned[source] = value

    def note_digests(self, source: str, digests: dict[str, str]) -> None:
        """Record the SHA-256 of files that were fetched, as far as they have none yet."""
        before = self.digests.get(source, {})
        if not digests.keys() <= before.keys():
            self.digests[source] = self._fetched[source] = {**digests, **before}

    def note_libraries(self, versions: dict[str, str]) -> None:
        """Record the versions of libraries that have none yet."""
        for name, version in versions.items():
            if name not in self.libraries:
                self.note_version(name, version)

    def note_version(self, name: str, version: str) -> None:
        if self.libraries.get(name) != version:
            self.libraries[name] = self._noted[name] = version

    def pin_template_date(self, date: str) -> None:
        if self.template_date != date:
            self._first_date = not self.template_date
            self.template_date = self._dated = date

    def name_history(self, name: str = "", *, anew: bool = False) -> None:
        """Give the history a name, by default a random one, unless it has one or `anew` is set."""
        if anew or not self.history:
            self.history, self._named = name or os.urandom(16).hex(), True
            self._renamed = anew

    def save(self) -> None:
        """Write the changes. Of two builds that pin a new source, the first one's pin holds.

        So does the first one's name of the history.
        """
        if not (self._pinned or self._noted or self._fetched or self._dated or self._named):
            return
        with locked(self.file.parent / ".olivebuild" / "pins.lock"):
            content = _load(self.file)
            pinned_meanwhile = {
                source: pin for source, pin in content.sources.items() if source in self._new
            }
            self.sources = content.sources | self._pinned | pinned_meanwhile
            self.libraries = content.libraries | self._noted
            self.digests = self._digests_of(content)
            if not self._dated or (self._first_date and content.template_date):
                self._dated = content.template_date
            self.template_date = self._dated
            self.history = (not self._renamed and content.history) or self.history
            data = {
                **content.others,
                "version": 1,
                "sources": self.sources,
                "libraries": self.libraries,
            }
            if self.digests:
                data["digests"] = self.digests
            if self.template_date:
                data["template_date"] = self.template_date
            if self.history:
                data["history"] = self.history
            write_atomically(
                self.file, (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()
            )
        self._pinned, self._noted, self._new, self._dated = {}, {}, set(), ""
        self._fetched, self._named, self._renamed = {}, False, False

    def _digests_of(self, content: _Content) -> dict[str, dict[str, str]]:
        """Return the digests that go with the pins, of the file's and this build's."""
        same = {s for s, pin in self.sources.items() if content.sources.get(s) == pin}
        kept = {s: digests for s, digests in content.digests.items() if s in same}
        return kept | {s: {**d, **kept.get(s, {})} for s, d in self._fetched.items()}


class _Content(NamedTuple):
    """A lock file's entries; `others` are those of another version of olivebuild, which stay."""

    sources: dict[str, str]
    libraries: dict[str, str]
    digests: dict[str, dict[str, str]]
    template_date: str
    history: str
    others: dict[str, object]


KNOWN = ("version", "sources", "libraries", "digests", "template_date", "history")


def _load(file: Path) -> _Content:
    """Return the content of a lock file, empty where there is none. Raises RecipeError."""
    if not file.exists():
        return _Content({}, {}, {}, template_date="", history="", others={})
    hint = "restore it from version control, or delete it to pin everything anew"
    try:
        return _content(read_json(file))
    except json.JSONDecodeError as e:
        raise RecipeError(
            f"not valid JSON: {e.msg}", where=Where(file.name, e.lineno, e.colno), hint=hint
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise RecipeError(
            f"not a lock file of olivebuild: {e}", where=Where(file.name), hint=hint
        ) from None


def _content(data: Any) -> _Content:
    """Return the entries of a parsed lock file.

    Raises ValueError, KeyError, TypeError or AttributeError for one of another form.
    """
    pins, versions = data["sources"], data["libraries"]
    if data.get("version", 1) != 1:
        raise ValueError(f"version {data['version']!r} is not known")
    if not all(isinstance(v, str) for v in (*pins.values(), *versions.values())):
        raise ValueError("a pin is not text")
    digests = data.get("digests", {})
    if not all(isinstance(v, str) for files in digests.values() for v in files.values()):
        raise ValueError("a digest is not text")
    date = data.get("template_date", "")
    if date:
        check_date(date)
    elif date != "":
        raise ValueError(f"template_date is {date!r}")
    history = data.get("history", "")
    if history != "" and not HISTORY.fullmatch(history):
        raise ValueError(f"history is {history!r}")
    others = {name: value for name, value in data.items() if name not in KNOWN}
    if others:
        _check_names(others)
    return _Content(
        sources=dict(pins),
        libraries=dict(versions),
        digests={source: dict(files) for source, files in digests.items()},
        template_date=date,
        history=history,
        others=others,
    )


def _check_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name that is nearly one of ours, and so was meant to be it.

    Others are entries of a later version.
    """
    # Most lock files have no such entries.
    import difflib

    for name in names:
        if close := difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.8):
            raise ValueError(f"the entry {name!r} is not known; did you mean {close[0]}?")
