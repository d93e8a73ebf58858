"""`olivebuild.lock`: what the world can change, pinned. Made on first use, committed by users, changed only by `olivebuild update`.

It also records the library versions that made the results, so that a machine without them (a CI runner) can still find the
keys and restore.
"""

from __future__ import annotations

import json
from pathlib import Path

from olivebuild.digest import write_atomically
from olivebuild.errors import RecipeError, Where

FILE_NAME = "olivebuild.lock"


class Lockfile:
    """source text -> pin (a commit, a wheel's sha256); library -> version."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sources: dict[str, str] = {}
        self.libraries: dict[str, str] = {}
        self._changed = False
        if not file.exists():
            return
        hint = "restore it from version control, or delete it to pin everything anew"
        try:
            data = json.loads(file.read_text("utf-8"))
            pins, versions = data["sources"], data["libraries"]
            if data.get("version", 1) != 1:
                raise ValueError(f"version {data['version']!r} is not known")
            if not all(isinstance(v, str) for table in (pins, versions) for v in table.values()):
                raise ValueError("a pin is not text")
        except json.JSONDecodeError as e:
            raise RecipeError(f"not valid JSON: {e.msg}", where=Where(file.name, e.lineno, e.colno), hint=hint) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise RecipeError(f"not a lock file of olivebuild: {e}", where=Where(file.name), hint=hint) from None
        self.sources, self.libraries = dict(pins), dict(versions)

    def pin(self, source: str, value: str) -> None:
        self._changed |= self.sources.get(source) != value
        self.sources[source] = value

    def note_libraries(self, versions: dict[str, str]) -> None:
        """Remember versions not yet recorded."""
        for name, version in versions.items():
            if name not in self.libraries:
                self.note_version(name, version)

    def note_version(self, name: str, version: str) -> None:
        self._changed |= self.libraries.get(name) != version
        self.libraries[name] = version

    def save(self) -> None:
        if self._changed:
            data = {"version": 1, "sources": self.sources, "libraries": self.libraries}
            write_atomically(self.file, (json.dumps(data, indent=2, sort_keys=True) + "\n").encode())
            self._changed = False
