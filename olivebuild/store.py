"""The store: immutable blobs named by their digest, and folders as manifests of blobs. Knows nothing of recipes.

Blobs come first and are complete when their name appears: written beside, hashed, synced, renamed. Reading verifies: a restore
hashes while it copies, and what is damaged goes to quarantine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from olivebuild import digest, tensors
from olivebuild.errors import StepError, StoreError

SEGMENT = 64 << 20
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""What the cache holds is data from outside: nothing is converted, nothing unknown is passed over."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Damaged(Exception):
    """A blob is missing or is not what its name says."""

    def __init__(self, blob: str, why: str) -> None:
        super().__init__(f"blob {blob} {why}")
        self.blob = blob
        self.why = why


@dataclass(frozen=True)
class Entry:
    """One file of a folder: its name (relative, POSIX), whether it is executable, its size and digest, and the blobs that make it.

    A file is one blob, or, if it holds tensors, a run of (blob, size): equal tensors of different models are stored once.
    """

    name: str
    executable: bool
    size: Annotated[int, Field(ge=0)]
    digest: Digest
    blobs: tuple[tuple[Digest, Annotated[int, Field(ge=0)]], ...] = ()
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def runs(self) -> tuple[tuple[str, int], ...]:
        return self.blobs or ((self.digest, self.size),)


@dataclass(frozen=True)
class Manifest:
    """A folder. Its digest covers names, modes and contents, not how the contents are split into blobs."""

    files: tuple[Entry, ...]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def digest(self) -> str:
        return digest.of_json([[e.name, e.executable, e.size, e.digest] for e in self.files])

    @property
    def size(self) -> int:
        return sum(e.size for e in self.files)

    def to_json(self) -> str:
        return digest.canonical_json({"files": [asdict(e) for e in self.files]})

    @staticmethod
    def from_json(text: bytes) -> Manifest:
        """Raises ValueError on anything that is not a manifest, and on names that leave the folder."""
        manifest = _MANIFESTS.validate_json(text)
        for entry in manifest.files:
            path = PurePosixPath(entry.name)
            if path.is_absolute() or ".." in path.parts or "\\" in entry.name or not path.parts:
                raise ValueError(f"a name that leaves its folder: {entry.name!r}")
        return manifest


_MANIFESTS = TypeAdapter(Manifest)


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for name in ("blobs", "traces", "locks", "tmp", "quarantine", "workspaces"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            hint = "set OLIVEBUILD_CACHE to a folder that you may write"
            raise StoreError(f"the cache can't be made: {e.strerror}", where=str(root), hint=hint) from None

    def path(self, blob: str) -> Path:
        return self.root / "blobs" / blob[:2] / blob

    def lock_file(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    def scratch(self, name: str) -> Path:
        """A new empty folder on the store's file system."""
        folder = self.root / "tmp" / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        return folder

    # Writing

    def put_bytes(self, data: bytes) -> str:
        name = digest.of_bytes(data)
        self._publish(name, data)
        return name

    def put_folder(self, folder: Path) -> tuple[Manifest, str]:
        """Store a folder that nobody else writes to; (manifest, the manifest's blob). Raises StepError on links and odd files."""
        entries = tuple(self._put_file(folder, path) for path in digest.files_below(folder))
        manifest = Manifest(entries)
        return manifest, self.put_bytes(manifest.to_json().encode())

    def _put_file(self, folder: Path, path: Path) -> Entry:
        name = path.relative_to(folder).as_posix()
        mode = path.lstat()
        if not stat.S_ISREG(mode.st_mode):
            raise StepError(f"the output {name} is a link or a special file", hint="copy the file's content into the output")
        runs = _runs(path, mode.st_size)
        whole = digest.hasher()
        blobs: list[tuple[str, int]] = []
        with open(path, "rb") as f, ThreadPoolExecutor(4) as pool:
            # Syncing is the slow part and waits for the disk, so a few blobs are on their way at once.
            pending = []
            for size in runs:
                data = f.read(size)
                if len(data) != size:
                    raise StepError(f"the output {name} changed while it was stored", hint="does the step leave a process behind that still writes?")
                whole.update(data)
                blobs.append((digest.of_bytes(data), size))
                pending.append(pool.submit(self._publish, blobs[-1][0], data))
                del data
                if len(pending) > 4:
                    pending.pop(0).result()
            for left in pending:
                left.result()
        executable = bool(mode.st_mode & stat.S_IXUSR)
        return Entry(name, executable, mode.st_size, whole.hexdigest(), tuple(blobs) if len(blobs) > 1 else ())

    def _publish(self, name: str, data: bytes) -> None:
        path = self.path(name)
        try:
            if path.stat().st_size == len(data) and digest.of_file(path) == name:
                return
        except OSError:
            pass
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            digest.write_atomically(path, data)
        except OSError as e:
            raise StoreError(f"the cache can't be written: {e.strerror}", where=str(self.root), hint="is the disk full?") from None

    # Reading

    def manifest(self, blob: str) -> Manifest:
        """Raises Damaged."""
        return Manifest.from_json(self.read(blob))

    def read(self, blob: str) -> bytes:
        try:
            data = self.path(blob).read_bytes()
        except OSError:
            raise Damaged(blob, "is missing") from None
        if digest.of_bytes(data) != blob:
            self.quarantine(blob)
            raise Damaged(blob, "is damaged")
        return data

    def missing(self, manifest: Manifest) -> Damaged | None:
        """The first blob that is not there in its full size; its bytes are looked at when they are used."""
        for entry in manifest.files:
            for blob, size in entry.runs():
                try:
                    found = self.path(blob).stat().st_size
                except OSError:
                    return Damaged(blob, "is missing")
                if found != size:
                    return Damaged(blob, f"has {found} bytes instead of {size}")
        return None

    def restore(self, manifest: Manifest, folder: Path) -> None:
        """Write the files into `folder`, hashing while they are copied. Raises Damaged, after moving the bad blob to quarantine."""
        for entry in manifest.files:
            path = folder / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = digest.hasher()
            with open(path, "wb") as out:
                for blob, _ in entry.runs():
                    for chunk in self._checked(blob):
                        whole.update(chunk)
                        out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            if whole.hexdigest() != entry.digest:
                raise Damaged(entry.digest, f"({entry.name}) is not what its blobs add up to")
            if entry.executable:
                path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def _checked(self, blob: str) -> Iterator[bytes]:
        hasher = digest.hasher()
        try:
            with open(self.path(blob), "rb") as f:
                while chunk := f.read(digest.CHUNK):
                    hasher.update(chunk)
                    yield chunk
        except OSError:
            raise Damaged(blob, "is missing") from None
        if hasher.hexdigest() != blob:
            self.quarantine(blob)
            raise Damaged(blob, "is damaged")

    def verify(self, repair: bool) -> tuple[int, list[str]]:
        """Read every blob; (how many, which are damaged). With `repair` the damaged ones go to quarantine."""
        checked, faults = 0, []
        for path in sorted((self.root / "blobs").glob("??/*")):
            if len(path.name) != 32:
                continue
            checked += 1
            if digest.of_file(path) != path.name:
                faults.append(path.name)
                if repair:
                    self.quarantine(path.name)
        return checked, faults

    def quarantine(self, blob: str) -> None:
        """Out of the way, but kept: it may be evidence of a failing disk."""
        with contextlib.suppress(OSError):
            os.replace(self.path(blob), self.root / "quarantine" / blob)

    def discard(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)


def _runs(path: Path, size: int) -> list[int]:
    """The sizes of a file's blobs: header and tensors of safetensors apart, nothing larger than SEGMENT."""
    cuts = [size]
    if path.suffix == ".safetensors":
        found = tensors.tensors_of(path)
        header = found[0].start if found else size
        cuts = [header, *(t.end - t.start for t in found if t.end > t.start)]
    return [part for cut in cuts for part in [*[SEGMENT] * (cut // SEGMENT), cut % SEGMENT] if part] or [0]
