"""The history of a recipe across machines: its builds in a remote cache.

A recipe's history has a name in its lock file, by which all checkouts find it. Builds of other
machines get the next numbers here, in order of time; they are told apart by machine and folder.
What was brought there or here is noted beside the history (`.shared`), a name a line.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import PurePath

import msgspec
from msgspec.structs import replace

from olivebuild.core import hashing
from olivebuild.core.fs import opening
from olivebuild.core.values.strict_json import decode
from olivebuild.engine.history import Entry, History
from olivebuild.engine.remote.process import TransferProcess

MOST = 100
"""Builds of this machine that are brought there at once: the newest."""


class SharedBuilds:
    """The builds of a history in a remote cache, by the process that talks to it."""

    def __init__(self, process: TransferProcess, history: History) -> None:
        self._process, self._history = process, history
        self._file = history.file.with_suffix(".shared")

    def bring(self) -> tuple[int, list[str]]:
        """Bring the builds that others have made here.

        Return how many, and why others are not used. Raises OSError.
        """
        seen = self._seen()
        answer = self._process.exchange("builds", self._name, seen=sorted(seen))
        texts = answer.get("texts") or {}
        faults = [str(fault) for fault in answer.get("faults") or []]
        if error := answer.get("error"):
            faults.append(str(error))
        entries = []
        for name in sorted(texts):
            try:
                entries.append(_received(texts[name]))
            except ValueError as e:
                faults.append(str(e))
        if entries:
            self._history.append_all(entries)
        self._note(texts)
        return len(entries), faults

    def share(self) -> str:
        """Bring the builds of this machine there; return why that failed, if it did.

        Raises OSError.
        """
        seen = self._seen()
        builds = {}
        for entry in [e for e in self._history.read() if not e.host][-MOST:]:
            try:
                time, text = entry.time, _sent(entry)
            except UnicodeEncodeError:
                # A name that is no text stays here.
                continue
            name = f"{time.replace('-', '').replace(':', '')}-{hashing.of_bytes(text)}"
            if name not in seen:
                builds[name] = [time, text]
        if not builds:
            return ""
        answer = self._process.exchange("builds", self._name, builds=list(builds.values()))
        self._note(answer.get("names") or [])
        return str(answer.get("error") or "")

    @property
    def _name(self) -> str:
        return self._history.file.stem

    def _seen(self) -> set[str]:
        try:
            return set(opening.read(self._file).decode("ascii", "replace").split())
        except OSError:
            return set()

    def _note(self, names: Iterable[str]) -> None:
        lines = "".join(f"{name}\n" for name in names)
        if lines:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "a", encoding="ascii") as f:
                f.write(lines)


def _sent(entry: Entry) -> str:
    """Return an entry as others get it: of the folder its name alone, and no number."""
    folder = PurePath(entry.folder).name
    sent = replace(entry, number=0, folder=folder, host=platform.node() or "a machine")
    return msgspec.json.encode(sent).decode()


def _received(text: str) -> Entry:
    """Return an entry of another machine. Raises ValueError for what is none."""
    # A later version may say more.
    entry = decode(text, Entry, strict=False)
    if not entry.host:
        raise ValueError("it is of no machine")
    return replace(entry, folder=f"{entry.host}:{entry.folder}")
