"""Traces: what a key produced and what it cost.

A file beside the blobs is the truth; a diskcache index makes looking up fast.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, to_builtins

from olivebuild.cache.index import Index
from olivebuild.cache.key import Part
from olivebuild.cache.store import Store
from olivebuild.core import hashing
from olivebuild.core.errors import of_disk
from olivebuild.core.fs import modes, opening
from olivebuild.core.fs.files import sync_folder, write_atomically
from olivebuild.core.values.strict_json import decode


class Trace(Struct, frozen=True):
    """A result under its key.

    `outputs` maps output names to content digests; `manifest` is the blob of the folder's manifest,
    or `reference` the folder.

    `seconds` and `peak_rss` (bytes) are what the run cost; `provenance` is what did not enter the
    key but helps to understand.
    """

    key: str
    kind: str
    parts: tuple[Part, ...]
    outputs: Mapping[str, str]
    manifest: Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?$")] = ""
    reference: str = ""
    size: int = 0
    seconds: float = 0.0
    peak_rss: int = 0
    metrics: Mapping[str, Any] = {}
    provenance: Mapping[str, Any] = {}
    accepted_from: str = ""

    def to_json(self) -> str:
        # Not sorted: the order of a benchmark's models is what "the last model listed" means.
        return json.dumps(to_builtins(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> Trace:
        """Raises ValueError on anything that is not a trace."""
        return decode(text, Trace)


class Traces:
    """key -> Trace.

    Reading never raises: what can't be read is as if it were not there, and is mended by the next
    write.

    A read-only cache is read without its index: SQLite would want to write beside it.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._index = None if store.read_only else Index(store.root / "traces")

    def file(self, key: str) -> Path:
        return self.store.root / "blobs" / key[:2] / f"{key}.trace"

    def get(self, key: str) -> Trace | None:
        try:
            row = self._index.get(key) if self._index is not None else None
            if row is not None and (trace := _parse(row, key)):
                return trace
        except ValueError:
            pass
        trace = self.read(key)
        if trace:
            self._note(trace)
        return trace

    def read(self, key: str) -> Trace | None:
        """Return a trace from its file alone."""
        try:
            return _parse(opening.read(self.file(key)).decode(), key)
        except PermissionError as e:
            raise modes.hidden(e) from None
        except (OSError, ValueError):
            return None

    def is_later(self, key: str) -> bool:
        """Return whether the file is whole, but of a later version of olivebuild.

        Such a file says more than this version understands.
        """
        try:
            text = opening.read(self.file(key)).decode()
        except (OSError, ValueError):
            return False
        try:
            _parse(text, key)
        except ValueError:
            check, _, body = text.partition("\n")
            return hashing.of_bytes(body) == check
        return False

    def put(self, trace: Trace) -> None:
        """The file first, the index after it: the file is what counts. Raises StoreError."""
        self.store.check_writable("a result can't be kept")
        file = self.file(trace.key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, _text(trace).encode())
            # What was told to be done is not lost with the power.
            sync_folder(file.parent)
        except OSError as e:
            raise of_disk(e, "the cache") from None
        self._note(trace)

    def _note(self, trace: Trace) -> None:
        if self._index is not None:
            self._index.set({trace.key: _text(trace)})

    def keys(self) -> list[str]:
        """All keys that have a file, be it right or not."""
        return sorted(
            p.stem for p in (self.store.root / "blobs").glob("??/*.trace") if len(p.stem) == 32
        )

    def use(self, traces: Iterable[Trace]) -> None:
        """Say that results are in use.

        A sweep that has just taken one finds it again, and the plan its blobs missing. Raises
        StoreError.
        """
        if self.store.read_only:
            return
        gone = []
        with self.store.in_use():
            for trace in traces:
                try:
                    self.store.touch(self.file(trace.key))
                except OSError:
                    gone.append(trace)
        for trace in gone:
            self.put(trace)

    def forget(self, key: str) -> None:
        if self._index is not None:
            self._index.delete([key])
        self.file(key).unlink(missing_ok=True)

    def is_whole(self, key: str) -> bool:
        return self.read(key) is not None

    def repair(self, key: str) -> None:
        """Write the file of a damaged trace again from the index.

        What the index does not know either goes to quarantine.
        """
        with contextlib.suppress(OSError):
            os.replace(self.file(key), self.store.root / "quarantine" / f"{key}.trace")
        if trace := self.get(key):
            self.put(trace)

    def close(self) -> None:
        if self._index is not None:
            self._index.close()


def _text(trace: Trace) -> str:
    """With a digest of its own, so that a flipped bit is no answer."""
    text = trace.to_json()
    return f"{hashing.of_bytes(text)}\n{text}"


def _parse(text: str, key: str) -> Trace | None:
    """None for what is damaged or is another key's.

    Raises ValueError on anything that is not a trace.
    """
    check, _, body = text.partition("\n")
    if hashing.of_bytes(body) != check:
        return None
    trace = Trace.from_json(body)
    return trace if trace.key == key else None
