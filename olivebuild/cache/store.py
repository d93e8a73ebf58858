"""The store: immutable blobs named by their digest, and folders as manifests of blobs.

Knows nothing of recipes. Blobs come first and are complete when their name appears: written beside,
hashed, synced, renamed. Reading verifies: a restore hashes while it copies, and a damaged blob goes
to quarantine.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import uuid
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from olivebuild.cache import tensor_locations
from olivebuild.cache.blobs import Batch
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged, StepError, StoreError, of_disk
from olivebuild.core.fs import modes, opening, portable_names, trees
from olivebuild.core.fs.files import (
    DEFAULT_MODE,
    files_below,
    opener,
    read_permissions,
    write_atomically,
)
from olivebuild.core.fs.locks import locked
from olivebuild.core.fs.positioned import pread, pwrite
from olivebuild.formats import safetensors

SMALL_FILE_DIRS = ("workspaces", "places", "proofs", "history", "sums")
"""Folders of small files, each of which is written whole or not at all."""
DIRS = ("blobs", "traces", "locks", "tmp", "quarantine", "places", "workspaces")
HOUR = 3600


class Store:
    def __init__(self, root: Path, mode: int = DEFAULT_MODE) -> None:
        """`mode`: who may read what is stored, by the system's bits, where the umask allows it."""
        self.root = root
        self.mode = mode
        self._borrowed: dict[str, dict[str, ByteRange]] = {}
        self._bad: set[str] = set()
        folders = [root / name for name in DIRS]
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            hint = "set OLIVEBUILD_CACHE to a folder that you may write"
            if not folders[0].is_dir():
                raise StoreError(
                    f"the cache can't be made: {e.strerror}", where=str(root), hint=hint
                ) from None
        trees.check(
            root,
            *(
                root / name
                for name in {*DIRS, *SMALL_FILE_DIRS, "checkpoints", "derived", "downloads"}
            ),
        )
        modes.check_readable(folders)
        modes.check_readable(modes.folders_in(folders[0]))
        self.read_only = not all(os.access(folder, os.W_OK) for folder in folders)

    def check_writable(self, purpose: str) -> None:
        """Raises StoreError where the cache serves to restore from only."""
        if self.read_only:
            hint = (
                "what the cache holds can be restored; for more, set OLIVEBUILD_CACHE to a folder "
                "that you may write"
            )
            raise StoreError(
                f"the cache is read-only, and {purpose}", where=str(self.root), hint=hint
            )

    def path(self, blob: str) -> Path:
        return self.root / "blobs" / blob[:2] / blob

    def lock_file(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    @property
    def builds_lock(self) -> Path:
        """Shared by all builds that run."""
        return self.root / "locks" / "builds.lock"

    @property
    def sweep_lock(self) -> Path:
        """Held alone by a sweep of the cache; see gc.py."""
        return self.root / "locks" / "sweep.lock"

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold off sweeps for the block: a file that is read and touched in it stays."""
        if self.read_only:
            yield
        else:
            with locked(self.sweep_lock, shared=True):
                yield

    def touch(self, path: Path) -> None:
        """Mark a file as used now; to the hour, so that its stat rarely changes. Raises OSError."""
        if time.time() - path.stat().st_mtime > HOUR:
            os.utime(path)

    def checkpoint(self, key: str) -> Path:
        """Return the file that keeps the state of a training until its result is stored.

        It outlives the training's scratch folder.
        """
        return self.root / "checkpoints" / f"{key}.safetensors"

    def scratch(self, name: str) -> Path:
        """Return a new empty folder on the store's file system. Raises StoreError."""
        folder = self.root / "tmp" / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            # Unfinished results are private to this process.
            folder.mkdir(parents=True, mode=0o700)
        except OSError as e:
            raise of_disk(e, "the cache") from None
        return folder

    # Writing

    def put_bytes(self, data: bytes) -> str:
        name = hashing.of_bytes(data)
        self._publish(name, data)
        return name

    def put_manifest(self, manifest: Manifest) -> str:
        return self.put_bytes(manifest.to_json().encode())

    def put_folder(self, folder: Path, scratch: Path | None = None) -> tuple[Manifest, str]:
        """Store a folder that no other process writes to; return (manifest, the manifest's blob).

        Raises StepError for links, special files and names that are no text.
        """
        paths = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
        if not_text := next((name for name in paths if not portable_names.is_text(name)), None):
            raise StepError(
                f"the name of the output {not_text!r} is not UTF-8 text",
                hint="give the file another name",
            )
        manifest = Manifest(
            tuple(self.put_file(path, name, scratch) for name, path in paths.items())
        )
        return manifest, self.put_manifest(manifest)

    def put_file(
        self, path: Path, name: str, scratch: Path | None = None, *, sync: bool = True
    ) -> Entry:
        mode = path.lstat()
        if not stat.S_ISREG(mode.st_mode):
            raise StepError(
                f"the output {name} is a link or a special file",
                hint="copy the file's content into the output",
            )
        runs: list[tuple[str, int]] = []
        with open(path, "rb") as f, self.batch(scratch, sync=sync) as batch:
            for size in _runs(path, mode.st_size):
                blob = batch.blob(read_permissions(mode.st_mode))
                left = size
                while left and (chunk := f.read(min(left, hashing.CHUNK))):
                    blob.write(chunk)
                    left -= len(chunk)
                if left:
                    raise StepError(
                        f"the output {name} changed while it was stored",
                        hint="does the step leave a process behind that still writes?",
                    )
                runs.append((blob.done(), size))
        return Entry.of_runs(name, runs, executable=modes.is_executable(path, mode.st_mode))

    def batch(self, scratch: Path | None = None, *, sync: bool = True) -> Batch:
        """Return a batch of blobs that are written piece by piece, and safe when it ends.

        `scratch`: a folder on the store's file system for unfinished blobs. Without `sync`, a power
        cut may take or damage some of them, which is found when they are read: for what is computed
        again in less time than syncing takes.
        """
        return Batch(self, scratch or self.root / "tmp", sync=sync)

    def has(self, name: str, size: int) -> bool:
        """Return True if a blob is there already, whole; it then counts as used now."""
        path = self.path(name)
        if not path.exists():
            return False
        with contextlib.suppress(OSError), self.in_use():
            if path.stat().st_size == size and blob_digest(path) == name:
                self.touch(path)
                return True
        return False

    def _publish(self, name: str, data: bytes) -> None:
        path = self.path(name)
        if self.has(name, len(data)):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data, self.mode)
        except OSError as e:
            raise of_disk(e, "the cache") from None

    # Reading

    def manifest(self, blob: str) -> Manifest:
        """Raises Damaged."""
        return Manifest.from_json(self.read(blob))

    def read(self, blob: str) -> bytes:
        try:
            data = opening.read(self.path(blob))
        except PermissionError as e:
            raise modes.hidden(e) from None
        except OSError:
            raise Damaged(blob, "is missing") from None
        if hashing.of_bytes(data) != blob:
            self.quarantine(blob)
            raise Damaged(blob, "is damaged")
        return data

    def missing(self, manifest: Manifest, *, computed: bool = False) -> Damaged | None:
        """Return the first blob that is not there in its full size; None if all are.

        Bytes are verified later, when they are used. With `computed`, a tensor that can be computed
        counts as there if what it is computed from is.
        """
        computable: set[str] = set()
        for merge in manifest.merges if computed else ():
            if fault := self._missing_adapter(merge.adapter):
                return fault
            computable |= {t.digest for t in merge.tensors}
        for entry in manifest.files:
            for blob, size in entry.runs():
                if blob in computable:
                    continue
                if fault := self._size_fault(blob, size, manifest.base):
                    return fault
        return None

    def _missing_adapter(self, blob: str) -> Damaged | None:
        try:
            return self.missing(self.manifest(blob))
        except (Damaged, ValueError):
            return Damaged(blob, "is missing")

    def _size_fault(self, blob: str, size: int, base: str) -> Damaged | None:
        """Return the fault of a blob that is missing, known to be bad or of another size."""
        place = self.find(blob, size, base)
        try:
            bytes_there = place.size if place.lent else place.path.stat().st_size
        except OSError:
            return Damaged(blob, "is missing")
        if blob in self._bad and not place.lent:
            return Damaged(blob, "is damaged")
        if bytes_there != size:
            return Damaged(blob, f"has {bytes_there} bytes instead of {size}")
        return None

    def stored_sizes(self, manifest: Manifest) -> dict[str, int]:
        """Return blob -> size in bytes of those blobs of a manifest that take room in the store.

        Blobs that are lent or computed take none.
        """
        return {
            blob: size
            for entry in manifest.files
            for blob, size in entry.runs()
            if self.path(blob).exists()
        }

    def find(self, blob: str, size: int, base: str = "") -> ByteRange:
        """Return where a blob's bytes lie.

        In the store or, if not there, in the model folder that lends them.
        """
        path = self.path(blob)
        if base and not path.exists():
            lent = self.borrowed(base).get(blob)
            if lent:
                return lent
        return ByteRange(path, 0, size)

    def borrowed(self, base: str) -> dict[str, ByteRange]:
        """Return digest -> where it lies in the folder of the model `base`.

        Empty when the folder is not as it was.
        """
        # A worker may find the folder at another place meanwhile, so that nothing is not the last
        # word.
        if not self._borrowed.get(base):
            self._borrowed[base] = tensor_locations.lenders(self.root, base)
        return self._borrowed[base]

    def restore(self, manifest: Manifest, folder: Path, *, sync: bool = False) -> None:
        """Write the files into `folder`, hashing while they are copied.

        Raises Damaged, after moving all bad blobs to quarantine.

        `sync`: return when they are safe from a power cut.
        """
        faults: list[Damaged] = []
        for entry in manifest.files:
            path = folder / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb", opener=opener(self._mode_of(entry, manifest.base))) as out:
                offsets = accumulate((size for _, size in entry.runs()), initial=0)
                pieces = [
                    (out.fileno(), manifest.base, blob, size, at)
                    for (blob, size), at in zip(entry.runs(), offsets, strict=False)
                ]
                # One build must be enough to find them all.
                faults += [fault for fault in hashing.in_threads(self._copy, pieces) if fault]
                if sync and not faults:
                    os.fsync(out.fileno())
            if entry.executable:
                modes.set_executable(path)
        if faults:
            raise faults[0]

    def _mode_of(self, entry: Entry, base: str) -> int:
        """Return the mode of a file that is made of blobs: readable by those who may read each."""
        mode = self.mode
        for blob, size in entry.runs():
            with contextlib.suppress(OSError):
                mode &= read_permissions(self.find(blob, size, base).path.stat().st_mode)
        return mode

    def _copy(self, out: int, base: str, blob: str, size: int, at: int) -> Damaged | None:
        """Copy a blob to the offset `at` of the file `out`, and return its fault, if any.

        Writes are positioned, since several threads share the file.
        """
        place = self.find(blob, size, base)
        hasher = hashing.hasher()
        try:
            source = opening.open_handle(place.path)
        except PermissionError as e:
            raise modes.hidden(e) from None
        except OSError:
            return Damaged(blob, "is missing")
        try:
            done = 0
            while done < size and (
                chunk := pread(source, min(size - done, hashing.CHUNK), place.offset + done)
            ):
                hasher.update(chunk)
                pwrite(out, chunk, at + done)
                done += len(chunk)
        finally:
            os.close(source)
        if hasher.hexdigest() != blob:
            if not place.lent:
                self.quarantine(blob)
            return Damaged(blob, "is damaged")
        return None

    def blobs(self) -> list[Path]:
        return [path for path in sorted((self.root / "blobs").glob("??/*")) if len(path.name) == 32]

    def quarantine(self, blob: str) -> None:
        """Move a bad blob out of the way, but keep it: it may be evidence of a failing disk.

        A blob that can't be moved is remembered as bad.
        """
        try:
            os.replace(self.path(blob), self.root / "quarantine" / blob)
        except FileNotFoundError:
            return
        except OSError:
            self._bad.add(blob)

    def discard(self, folder: Path) -> None:
        """Delete a folder or file of the cache. Raises StoreError for a link on the way to it."""
        trees.delete(self.root, folder)


def _runs(path: Path, size: int) -> list[int]:
    """Return the sizes of a file's blobs.

    A safetensors file is cut into its header and its tensors, any other file into segments.
    """
    if path.suffix == ".safetensors":
        tensors = safetensors.tensors_of(path)
        header = tensors[0].start if tensors else size
        return [header, *(t.end - t.start for t in tensors if t.end > t.start)]
    return hashing.segments(size)


def blob_digest(blob: Path, count: hashing.OnBytes = hashing.ignore_progress) -> str:
    """Return the digest that a blob is named by.

    It is the plain digest of all bytes, since a tensor's blob may be longer than a segment. Raises
    OSError.
    """
    return hashing.of_range(blob, 0, None, count)[0]
