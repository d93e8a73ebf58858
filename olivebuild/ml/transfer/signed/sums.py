"""SHA-256 of what a step read and made, for signatures of its result.

Keys have XXH3 digests of inputs, of which two can be made alike on purpose. A sum is taken of the
same content: of a file its bytes; of a folder names and files; of a model its tensors, however
sharded, and the small files that a loader reads; of an output the blobs of its files. The sums of a
result are kept in the cache beside it (sums/KEY.json), so that those of the results that are made
from it need not read it again.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.remote_records import InputPlace, RemoteBlob, Sha256, StepPaths
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core import hashing
from olivebuild.core.errors import BuildError, Damaged, StoreError
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import files_below, write_atomically
from olivebuild.core.hashing import StatMemo
from olivebuild.core.processes import python
from olivebuild.core.values.strict_json import decode
from olivebuild.formats.safetensors import sum_of, tensors_of
from olivebuild.formats.weight_files import digest_of_sums, model_files, name_in
from olivebuild.ml.transfer.signing import HINT

COMPUTED = "olivebuild.ml.transfer.signed.computed_sums"
"""The process that computes tensors: it may need libraries that this one does without."""
MODELS = ("model", "merged")
TICK = 1.0
"""Seconds between two signs of life while something long is read."""


class Record(Struct, frozen=True, kw_only=True):
    """The sums of a result, by the labels of its inputs and the names of its outputs."""

    result: str
    """Digest of the manifest and the outputs that they are of."""
    inputs: Mapping[str, Sha256] = {}
    outputs: Mapping[str, Sha256] = {}
    signer: str = ""
    """Who has signed it, or `nobody`; empty for a result that was made here."""


class Sums:
    """Takes sums in `store`; `alive` is called while it reads."""

    def __init__(self, store: Store, traces: Traces, alive: Callable[[], None]) -> None:
        self._store, self._traces = store, traces
        self._lock = threading.RLock()
        self._folder = store.root / "sums"
        self._outputs: dict[tuple[str, str], str] = {}
        """(identity of a result, output) -> its sum, where none was kept."""
        self._alive, self._told = alive, time.monotonic()

    @cached_property
    def _memo(self) -> StatMemo:
        # A cache that is read-only, of which nobody asks for sums, has none.
        self._folder.mkdir(exist_ok=True)
        return StatMemo(self._folder / "files")

    def keep(
        self,
        trace: Trace,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        *,
        signer: str = "",
    ) -> None:
        """Keep the sums of a result. Raises OSError."""
        record = Record(result=_identity(trace), inputs=inputs, outputs=outputs, signer=signer)
        self._folder.mkdir(exist_ok=True)
        write_atomically(self._file(trace.key), msgspec.json.encode(record))

    def kept(self, trace: Trace) -> Record | None:
        """Return the sums that were kept of a result, if they are of this one."""
        try:
            record = decode(opening.read(self._file(trace.key)), Record)
        except (OSError, ValueError):
            return None
        return record if record.result == _identity(trace) else None

    def inputs(self, paths: StepPaths) -> dict[str, str]:
        """Return the sum of each input, by label.

        Raises StoreError for what can't be read, or is not what the key says any more.
        """
        with self._lock:
            try:
                return {place.label: self._input(place) for place in paths.inputs}
            except Damaged as e:
                raise StoreError(f"its inputs can't be read: a blob {e.why}", hint=HINT) from None
            except BuildError as e:
                raise StoreError(f"its inputs can't be read: {e.fact}", hint=HINT) from None
            except OSError as e:
                raise StoreError(
                    f"its inputs can't be read: {e.strerror or e}", hint=HINT
                ) from None
            finally:
                self._memo.save()

    def outputs(
        self, trace: Trace, paths: Mapping[str, str], blobs: Iterable[RemoteBlob]
    ) -> dict[str, str]:
        """Return the sum of each output, by name. Raises BuildError and OSError."""
        if trace.reference:
            with self._lock:
                place = InputPlace(label="", digest=trace.outputs[""], path=trace.reference)
                return {"": self._model(place) if trace.kind in MODELS else self._path(place)}
        manifest = self._store.manifest(trace.manifest)
        sums = {blob.digest: blob.sha256 for blob in blobs}
        return {name: _output(manifest, paths.get(name, "."), sums) for name in trace.outputs}

    def elsewhere(self, trace: Trace, stored: Iterable[str]) -> tuple[RemoteBlob, ...]:
        """Return the blobs of a result that are lent by a model, or computed, with their sums.

        Raises BuildError and OSError.
        """
        if not trace.manifest:
            return ()
        manifest, there = self._store.manifest(trace.manifest), set(stored)
        runs = {b: size for e in manifest.files for b, size in e.runs() if b not in there}
        computed = {t.digest for merge in manifest.merges for t in merge.tensors}
        sums = self._computed(trace.manifest) if runs.keys() & computed else {}
        return tuple(
            RemoteBlob(
                digest=blob,
                size=size,
                sha256=sums[blob] if blob in sums else self.blob(blob, size, manifest.base),
            )
            for blob, size in runs.items()
        )

    def blob(self, digest: str, size: int, base: str = "") -> str:
        """Return the sum of a blob that is in the store or lent. Raises Damaged."""
        place = self._store.find(digest, size, base)
        try:
            known, sha256 = self._range(place.path, place.offset, size)
        except OSError:
            raise Damaged(digest, "is missing") from None
        if known != digest:
            raise Damaged(digest, "is damaged")
        return sha256

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _input(self, place: InputPlace) -> str:
        if place.is_model:
            return self._model(place)
        return self._path(place) if place.path else self._result(place)

    def _path(self, place: InputPlace) -> str:
        path = Path(place.path)
        if path.is_dir():
            digest, sha256 = self._tree(path)
        else:
            digest, sha256 = self._bytes(path)
        if digest != place.digest.rpartition(":")[2]:
            raise StoreError(f"{path.name} has changed since", hint=HINT)
        return sha256

    def _tree(self, folder: Path) -> tuple[str, str]:
        """Return (digest, sum) of a folder; the digest as planner/scan.py has it."""
        digests, sums = [], []
        for path in files_below(folder):
            digest, sha256 = self._tree(path) if path.is_dir() else self._bytes(path)
            name = path.relative_to(folder).as_posix()
            digests.append([name, digest])
            sums.append([name, sha256])
        return hashing.of_json(digests), _sum(["folder", sums])

    def _bytes(self, path: Path) -> tuple[str, str]:
        """Return (digest, SHA-256) of a file."""

        def both(path: Path, _count: object) -> str:
            sha256 = hashlib.sha256()
            with opening.open_file(path) as f:
                while data := f.read(hashing.CHUNK):
                    sha256.update(data)
                    self._tick()
            return f"{hashing.of_file(path)} {sha256.hexdigest()}"

        digest, _, sha256 = self._memo.digest(path, both, "sha256").partition(" ")
        return digest, sha256

    def _model(self, place: InputPlace) -> str:
        folder = Path(place.path)
        weights, others = model_files(folder, code=place.code)
        tensors = [row for file in weights for row in self._tensors(file)]
        small = [(name_in(folder, path), *self._bytes(path)) for path in others]
        digest = digest_of_sums(
            [sum_of([name, dtype, shape, digest] for name, dtype, shape, digest, _ in tensors)],
            [(name, digest) for name, digest, _ in small],
        )
        if digest != place.digest:
            raise StoreError(f"the model in {folder.name} has changed since", hint=HINT)
        rows = sorted([name, dtype, shape, sha256] for name, dtype, shape, _, sha256 in tensors)
        return _sum(["model", rows, [[name, sha256] for name, _, sha256 in small]])

    def _tensors(self, file: Path) -> list[list[Any]]:
        """Return [name, dtype, shape, digest, SHA-256] of the tensors of a file."""

        def rows(path: Path, _count: object) -> str:
            return json.dumps(
                [
                    [t.name, t.dtype, t.shape, *self._range(path, t.start, t.end - t.start)]
                    for t in tensors_of(path)
                ]
            )

        loaded: list[list[Any]] = json.loads(self._memo.digest(file, rows, "sha256 tensors"))
        return loaded

    def _range(self, path: Path, start: int, size: int) -> tuple[str, str]:
        """Return (digest, SHA-256) of a part of a file. Raises OSError."""
        digest, sha256, left = hashing.hasher(), hashlib.sha256(), size
        with opening.open_file(path) as f:
            f.seek(start)
            while left and (data := f.read(min(left, hashing.CHUNK))):
                digest.update(data)
                sha256.update(data)
                left -= len(data)
                self._tick()
        return str(digest.hexdigest()), sha256.hexdigest()

    def _result(self, place: InputPlace) -> str:
        """Return the sum of the output of a result in the cache."""
        trace = self._traces.get(place.key)
        if trace is None:
            raise StoreError(f"the result of {place.label} is not here", hint=HINT)
        if (record := self.kept(trace)) and place.output in record.outputs:
            return record.outputs[place.output]
        name = (_identity(trace), place.output)
        if name not in self._outputs:
            self._outputs[name] = self._read_output(trace, place)
        return self._outputs[name]

    def _read_output(self, trace: Trace, place: InputPlace) -> str:
        if trace.reference and not Path(trace.reference).is_dir():
            raise StoreError(f"the SHA-256 of {place.label} is not known here", hint=HINT)
        blobs: list[RemoteBlob] = []
        if trace.manifest:
            manifest = self._store.manifest(trace.manifest)
            for blob, size in self._store.stored_sizes(manifest).items():
                sha256 = self.blob(blob, size)
                blobs.append(RemoteBlob(digest=blob, size=size, sha256=sha256))
            blobs += self.elsewhere(trace, [blob.digest for blob in blobs])
        outputs = self.outputs(trace, {place.output: place.within}, blobs)
        return outputs[place.output]

    def _computed(self, manifest: str) -> dict[str, str]:
        """Return the sums of a manifest's computed tensors, by digest. Raises StoreError."""
        process = subprocess.Popen(
            python("-m", COMPUTED, str(self._store.root), manifest),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        sums: dict[str, str] = {}
        assert process.stdout
        for line in process.stdout:
            digest, _, sha256 = line.strip().partition(" ")
            sums[digest] = sha256
            self._tick()
        if process.wait():
            raise StoreError("its merged tensors can't be computed here", hint=HINT)
        return sums

    def _tick(self) -> None:
        if time.monotonic() - self._told > TICK:
            self._told = time.monotonic()
            self._alive()


def _identity(trace: Trace) -> str:
    return hashing.of_json([trace.manifest, dict(trace.outputs)])


def _output(manifest: Manifest, path: str, sums: Mapping[str, str]) -> str:
    """Return the sum of what lies at a path of a result's folder. Raises StoreError."""
    files: list[Entry] = [
        entry
        for entry in manifest.files
        if path == "." or entry.name == path or entry.name.startswith(f"{path}/")
    ]
    try:
        return _sum(
            [
                "output",
                [[e.name, e.executable, [sums[blob] for blob, _ in e.runs()]] for e in files],
            ]
        )
    except KeyError as e:
        raise StoreError(
            f"the SHA-256 of the blob {str(e.args[0])[:8]} is not known", hint=HINT
        ) from None


def _sum(value: object) -> str:
    return hashlib.sha256(hashing.canonical_json(value).encode()).hexdigest()
