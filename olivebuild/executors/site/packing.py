"""Packing: an action with paths of this machine -> a portable one, and where its bytes lie here."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise
from pathlib import Path

from msgspec import to_builtins

from olivebuild.api.action import Action, ActionInput, Asked
from olivebuild.api.site import SiteRequirements
from olivebuild.cache.manifest import Entry, Manifest
from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.cache.store import Store
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core import hashing, numerics
from olivebuild.core.errors import Damaged, InputError
from olivebuild.core.fs import modes, opening
from olivebuild.core.fs.files import files_below
from olivebuild.core.hashing import StatMemo
from olivebuild.executors.site import about
from olivebuild.executors.site.portable import (
    PROTOCOL,
    PortableAction,
    PortableAsked,
    PortableInput,
)
from olivebuild.formats import weight_files


class Packer:
    """Packs the actions of a build. What was hashed once is not hashed again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._memo = StatMemo(store.root / "sums" / "memo")
        self._sha256: dict[str, str] = {}
        self._folders: dict[tuple[str, str], tuple[str, Manifest]] = {}
        """(folder, its digest) -> its manifest, of folders that are in no manifest."""
        self.places: dict[str, ByteRange] = {}
        """Blob -> where its bytes lie on this machine."""

    def pack(self, action: Action) -> PortableAction:
        """Return a portable action, of which `places` has all blobs.

        Raises Damaged for an input that is not whole, InputError for files that can't travel, and
        OSError.
        """
        self._wanted: dict[str, None] = {}
        wants = action.elsewhere or SiteRequirements()
        recipe = Path(action.recipe_folder)
        inputs = {role: self._input(each) for role, each in action.inputs.items()}
        files = {
            label: [_below(recipe, Path(path), action.target) for path in paths]
            for label, paths in action.files.items()
        }
        scripts = [_below(recipe, Path(path), action.target) for path in wants.scripts]
        names = dict.fromkeys([name for group in files.values() for name in group] + scripts)
        folder = tuple(self._file(recipe / name, name) for name in names)
        asked = tuple(self._asked(each, number) for number, each in enumerate(action.asked))
        return PortableAction(
            protocol=PROTOCOL,
            code=about.code(),
            key=action.key,
            node=action.node,
            target=action.target,
            kind=action.kind,
            runner=action.runner,
            fields=to_builtins(action.fields),
            inputs=inputs,
            files=files,
            folder=folder,
            asked=asked,
            pin=action.pin,
            sha256=dict(action.sha256),
            places=to_builtins(action.places),
            gpus=action.gpus,
            publish=action.publish,
            consumers=[list(each) for each in to_builtins(action.consumers)],
            template_date=action.template_date,
            needs=wants.needs,
            libraries=dict(wants.libraries),
            variables=dict(wants.variables),
            numerics=dict(wants.numerics),
            settings=settings(),
            blobs=self._blobs(self._wanted),
        )

    def _input(self, source: ActionInput) -> PortableInput:
        manifest, path = "", "."
        if source.folder:
            manifest = self._folder(source)
            path = Path(source.path).relative_to(source.folder).as_posix()
        elif source.manifest:
            self._manifest(source.manifest)
        return PortableInput(
            kind=source.kind,
            target=source.target,
            source=source.source,
            trust_remote_code=source.trust_remote_code,
            digest=source.digest,
            manifest=manifest,
            path=path,
            stored=source.manifest,
        )

    def _folder(self, source: ActionInput) -> str:
        """Return the manifest of an input's folder: a new one for a folder that has none."""
        if source.manifest and _is_plain(self._store.manifest(source.manifest)):
            self._manifest(source.manifest)
            return source.manifest
        folder = Path(source.folder)
        key = (source.folder, source.digest)
        if key not in self._folders:
            manifest = Manifest(
                tuple(
                    self._file(path, path.relative_to(folder).as_posix())
                    for path in _files_of(folder, source)
                )
            )
            self._folders[key] = self._store.put_manifest(manifest), manifest
        blob, manifest = self._folders[key]
        self._wanted |= dict.fromkeys(d for e in manifest.files for d, _ in e.runs())
        self._want(blob, ByteRange(self._store.path(blob), 0, self._size(blob)))
        return blob

    def _file(self, path: Path, name: str) -> Entry:
        """Return a file as blobs of a segment each, which lie in it. Raises OSError."""
        mode = path.stat().st_mode
        runs, offset = [], 0
        for digest, size, sha256 in json.loads(self._memo.digest(path, _sums_of, "segments")):
            self._want(digest, ByteRange(path, offset, size))
            self._sha256[digest] = sha256
            runs.append((digest, size))
            offset += size
        return Entry.of_runs(name, runs, executable=modes.is_executable(path, mode))

    def _asked(self, asked: Asked, number: int) -> PortableAsked:
        path = Path(asked.path)
        return PortableAsked(
            target=asked.target,
            file=self._file(path, f"{number}{path.suffix}"),
            new_tokens=asked.new_tokens,
            whole=asked.whole,
        )

    def _manifest(self, blob: str) -> None:
        """Want a manifest and all that it stands for.

        What it lends from a folder becomes blobs of their own, and what it computes travels as what
        that is computed from. Raises Damaged.
        """
        manifest = _read(self._store, blob)
        self._want(blob, ByteRange(self._store.path(blob), 0, self._size(blob)))
        sizes = {digest: size for entry in manifest.files for digest, size in entry.runs()}
        computed = {
            tensor.digest: tensor.base for merge in manifest.merges for tensor in merge.tensors
        }
        for digest, size in sizes.items():
            if digest in computed and not self._store.path(digest).exists():
                # The tensor that it changes has its shape, and may itself be computed before.
                digest = _first(digest, computed)
            place = self._store.find(digest, size, manifest.base)
            if not place.lent and not place.path.is_file():
                raise Damaged(digest, "is missing")
            self._want(digest, place)
        for merge in manifest.merges:
            self._manifest(merge.adapter)

    def _size(self, blob: str) -> int:
        return self._store.path(blob).stat().st_size

    def _want(self, digest: str, place: ByteRange) -> None:
        self.places.setdefault(digest, place)
        self._wanted[digest] = None

    def _blobs(self, digests: Iterable[str]) -> tuple[RemoteBlob, ...]:
        wanted = list(digests)
        unknown = [digest for digest in wanted if digest not in self._sha256]
        sums = hashing.in_threads(self._sum_of, [(digest,) for digest in unknown])
        self._sha256 |= zip(unknown, sums, strict=True)
        with contextlib.suppress(OSError):
            # Only to be faster next time.
            self._memo.save()
        return tuple(
            RemoteBlob(digest=d, size=self.places[d].size, sha256=self._sha256[d]) for d in wanted
        )

    def _sum_of(self, digest: str) -> str:
        """Return the SHA-256 of a blob. Raises OSError."""
        place = self.places[digest]
        kind = f"sha256 {place.offset} {place.size}"
        return self._memo.digest(place.path, lambda _path, _count: _sha256_of(place), kind)


def settings() -> dict[str, str]:
    """Return the variables of this environment by which libraries compute otherwise."""
    names = (*numerics.SETTINGS, *numerics.THREADS)
    return {name: value for name in names if (value := os.environ.get(name))}


def read(place: ByteRange, offset: int, most: int) -> bytes:
    """Return bytes of a blob that lies somewhere. Raises OSError."""
    with opening.open_file(place.path) as f:
        f.seek(place.offset + offset)
        return f.read(max(0, min(most, place.size - offset)))


def _sha256_of(place: ByteRange) -> str:
    digest, offset = hashlib.sha256(), 0
    while piece := read(place, offset, hashing.CHUNK):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()


def _sums_of(path: Path, _count: hashing.OnBytes) -> str:
    """Return the digest, size and SHA-256 of a file's segments, as JSON. Raises OSError."""
    starts = list(accumulate(hashing.segments(path.stat().st_size), initial=0))
    return json.dumps(hashing.in_threads(_sums_of_range, [(path, *s) for s in pairwise(starts)]))


def _sums_of_range(path: Path, start: int, end: int) -> tuple[str, int, str]:
    digest, sha256 = hashing.hasher(), hashlib.sha256()
    place = ByteRange(path, start, end - start)
    offset = 0
    while piece := read(place, offset, hashing.CHUNK):
        digest.update(piece)
        sha256.update(piece)
        offset += len(piece)
    if offset < place.size:
        raise OSError(errno.EIO, "changed while it was read", str(path))
    return digest.hexdigest(), offset, sha256.hexdigest()


def _read(store: Store, blob: str) -> Manifest:
    try:
        return store.manifest(blob)
    except ValueError:
        raise Damaged(blob, "is damaged") from None


def _first(digest: str, computed: Mapping[str, str]) -> str:
    """Return the tensor that a computed one goes back to."""
    for _ in computed:
        if digest not in computed:
            break
        digest = computed[digest]
    return digest


def _is_plain(manifest: Manifest) -> bool:
    """Return whether all of a folder is stored, so that any store can write it out."""
    return not (manifest.base or manifest.merges)


def _files_of(folder: Path, source: ActionInput) -> list[Path]:
    """Return the files of a folder that a step may read: of a model those that loaders do."""
    if source.kind not in ("model", "merged"):
        return list(files_below(folder))
    weights, others = weight_files.model_files(folder, code=source.trust_remote_code)
    index = [path for path in folder.glob("*.safetensors.index.json") if path.is_file()]
    return sorted({*weights, *others, *index})


def _below(folder: Path, path: Path, target: str) -> str:
    """Return a file's name below the recipe's folder. Raises InputError where it is not there."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        raise InputError(
            f"{target} reads {path}, which is not below the recipe's folder",
            where=str(path),
            hint="a step on another machine gets files of the recipe's folder: move it there, or "
            "leave out `executor:`",
        ) from None
