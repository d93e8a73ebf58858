"""Memo of computed tensors: recipe and source digests -> blobs.

Losing any of it costs time, nothing else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping

from olivebuild.cache.index import Index
from olivebuild.cache.store import Store
from olivebuild.core.errors import Damaged

Blobs = tuple[tuple[str, int], ...]
"""(blob, size) of each part of a result."""


class Derived:
    """key -> blobs, in the cache.

    Reading and writing never raise; what can't be read is as if it were not there.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._index = None if store.read_only else Index(store.root / "derived")

    def get(self, keys: Iterable[str]) -> dict[str, Blobs]:
        """Those of the keys that are known and whose blobs are there in their full size."""
        tensors: dict[str, Blobs] = {}
        with self.store.in_use():
            for key in keys:
                try:
                    blobs = _parse(self._index.get(key) if self._index is not None else None)
                    if blobs and all(
                        self.store.path(blob).stat().st_size == size for blob, size in blobs
                    ):
                        tensors[key] = blobs
                        for blob, _ in blobs:
                            self.store.touch(self.store.path(blob))
                except (ValueError, TypeError, OverflowError, RecursionError, OSError):
                    continue
        return tensors

    def read(self, key: str) -> bytes | None:
        """Return the one blob that is known under a key.

        None where none is, or where it is damaged, and so in quarantine now.
        """
        for blobs in self.get([key]).values():
            with contextlib.suppress(Damaged):
                return self.store.read(blobs[0][0])
        return None

    def write(self, key: str, data: bytes) -> None:
        """Keep what `read` gives. Raises StoreError where the cache can't be written."""
        self.put({key: ((self.store.put_bytes(data), len(data)),)})

    def rows(self) -> dict[str, Blobs]:
        """All that is known; of a row that can't be read, no blobs."""
        blobs_by_key: dict[str, Blobs] = {}
        if self._index is None:
            return blobs_by_key
        for key in self._index.all_keys():
            try:
                blobs_by_key[key] = _parse(self._index.get(key))
            except (ValueError, TypeError, OverflowError, RecursionError):
                blobs_by_key[key] = ()
        return blobs_by_key

    def drop(self, keys: Iterable[str]) -> None:
        if self._index is not None:
            self._index.delete(keys)

    def put(self, results: Mapping[str, Blobs]) -> None:
        if self._index is not None:
            self._index.set({key: json.dumps(blobs) for key, blobs in results.items()})


def _parse(text: str | None) -> Blobs:
    """Raises ValueError and its like on what is no row."""
    return tuple((str(blob), int(size)) for blob, size in json.loads(text)) if text else ()
