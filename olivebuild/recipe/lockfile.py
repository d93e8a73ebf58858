"""`olivebuild.lock`: what the world can change, pinned.

Made on first use, committed by users, changed only by `olivebuild update`.

It also records the library versions that made the results, so that a machine without them (a CI
runner) can still find the
keys and restore.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.fs.files import write_atomically
from olivebuild.core.fs.locks import locked
from olivebuild.core.fs.small_files import read_json
from olivebuild.formats.template_clock import check_date

FILE_NAME = "olivebuild.lock"


class Lockfile:
    """source text -> pin (a commit, a wheel's sha256); library -> version; the date that chat
    templates are told, empty until one is needed.

    Several builds, also of other recipes in the folder, may write at once: each adds what it
    changed to what is there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        found = _load(file)
        self.sources, self.libraries, self.template_date = (
            found.sources,
            found.libraries,
            found.template_date,
        )
        self._pinned: dict[str, str] = {}
        self._noted: dict[str, str] = {}
        self._new: set[str] = set()
        self._dated = ""
        self._first_date = False

    def pin(self, source: str, value: str) -> None:
        if self.sources.get(source) == value:
            return
        if source not in self.sources:
            self._new.add(source)
        self.sources[source] = self._pinned[source] = value

    def note_libraries(self, versions: dict[str, str]) -> None:
        """Remember versions not yet recorded."""
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

    def save(self) -> None:
        """What another build pinned first for a source that was new to both holds for this one,
        too.
        """
        if not (self._pinned or self._noted or self._dated):
            return
        with locked(self.file.parent / ".olivebuild" / "pins.lock"):
            found = _load(self.file)
            first = {
                source: found.sources[source] for source in self._new if source in found.sources
            }
            self.sources = found.sources | self._pinned | first
            self.libraries = found.libraries | self._noted
            if not self._dated or (self._first_date and found.template_date):
                self._dated = found.template_date
            self.template_date = self._dated
            data = {
                **found.others,
                "version": 1,
                "sources": self.sources,
                "libraries": self.libraries,
            }
            if self.template_date:
                data["template_date"] = self.template_date
            write_atomically(
                self.file, (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()
            )
        self._pinned, self._noted, self._new, self._dated = {}, {}, set(), ""


class _Content(NamedTuple):
    """`others` are entries that another version of olivebuild has written; they stay."""

    sources: dict[str, str]
    libraries: dict[str, str]
    template_date: str
    others: dict[str, object]


KNOWN = ("version", "sources", "libraries", "template_date")


def _load(file: Path) -> _Content:
    """Raises RecipeError."""
    if not file.exists():
        return _Content({}, {}, "", {})
    hint = "restore it from version control, or delete it to pin everything anew"
    try:
        data = read_json(file)
        pins, versions = data["sources"], data["libraries"]
        if data.get("version", 1) != 1:
            raise ValueError(f"version {data['version']!r} is not known")
        if not all(isinstance(v, str) for table in (pins, versions) for v in table.values()):
            raise ValueError("a pin is not text")
        date = data.get("template_date", "")
        if date:
            check_date(date)
        elif date != "":
            raise ValueError(f"template_date is {date!r}")
        others = {name: value for name, value in data.items() if name not in KNOWN}
        if others:
            import difflib
        for name in others:
            # What a later version writes is kept; what is nearly one of ours was meant to be it.
            if close := difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.8):
                raise ValueError(f"the entry {name!r} is not known; did you mean {close[0]}?")
        return _Content(dict(pins), dict(versions), date, others)
    except json.JSONDecodeError as e:
        raise RecipeError(
            f"not valid JSON: {e.msg}", where=Where(file.name, e.lineno, e.colno), hint=hint
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise RecipeError(
            f"not a lock file of olivebuild: {e}", where=Where(file.name), hint=hint
        ) from None
