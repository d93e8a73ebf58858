"""A safetensors file that is stored as it is made, a tensor a blob."""

from __future__ import annotations

import json
from collections.abc import Sequence

from olivebuild.cache.manifest import Entry
from olivebuild.cache.store import Store


class TensorFile:
    """Tensors in the order in which they are added.

    https://github.com/huggingface/safetensors#format
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._header: dict[str, dict[str, object]] = {}
        self._runs: list[tuple[str, int]] = []
        self._end = 0

    def add(self, name: str, dtype: str, shape: Sequence[int], data: bytes) -> None:
        """Store a tensor; `dtype` as safetensors writes it. Raises StoreError."""
        if data:
            self._runs.append((self._store.put_bytes(data), len(data)))
        offsets = [self._end, self._end + len(data)]
        self._header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        self._end = offsets[1]

    def entry(self, name: str) -> Entry:
        """Return the file under this name. Raises StoreError."""
        text = json.dumps(self._header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        text = len(text).to_bytes(8, "little") + text
        return Entry.of_runs(name, [(self._store.put_bytes(text), len(text)), *self._runs])
