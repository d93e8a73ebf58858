"""Blobs between this machine and a site: inputs of a job there, and its result back.

What comes from another machine is believed only as far as its digests go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from msgspec import to_builtins

from olivebuild.api import privacy
from olivebuild.api.action import Action, Outcome
from olivebuild.api.result import Result
from olivebuild.cache import tensor_locations
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.remote_records import RemoteBlob
from olivebuild.cache.store import Store
from olivebuild.cache.tensor_locations import ByteRange
from olivebuild.core.errors import BuildError, Damaged, StepError, StoreError
from olivebuild.executors.site import packing
from olivebuild.executors.site.link import Link
from olivebuild.executors.site.portable import PortableAction, PortableOutcome

MOST_MANIFEST = 256 << 20
Moved = Callable[[int, int], None]
"""Takes how many bytes have been moved, and of how many."""


def send(
    portable: PortableAction, places: Mapping[str, ByteRange], link: Link, moved: Moved
) -> None:
    """Send the blobs of an action that the site lacks, from where they lie here.

    Raises BuildError, OSError, and Damaged for a blob that is not whole.
    """
    wanted = [[blob.digest, blob.size] for blob in portable.blobs]
    answer = link.call("missing", {"blobs": wanted}).data
    there = {str(digest): int(count) for digest, count in answer["missing"]}
    blobs = [blob for blob in portable.blobs if blob.digest in there]
    total, done = sum(blob.size for blob in blobs), 0
    for blob in blobs:
        offset = min(there[blob.digest], blob.size)
        while True:
            make = partial(_put, blob, places[blob.digest], offset)
            offset = int(link.move("put", make).data["have"])
            moved(done + offset, total)
            if offset >= blob.size:
                break
        done += blob.size


def _put(
    blob: RemoteBlob, place: ByteRange, offset: int, most: int
) -> tuple[dict[str, object], bytes]:
    """Raises Damaged and OSError."""
    piece = packing.read(place, offset, most)
    if not piece and offset < blob.size:
        raise Damaged(blob.digest, "is cut off")
    return {"blob": to_builtins(blob), "offset": offset}, piece


def _get(blob: RemoteBlob, offset: int, most: int) -> tuple[dict[str, object], bytes]:
    return {"blob": to_builtins(blob), "offset": offset, "most": most}, b""


def take_in(action: Action, told: PortableOutcome, link: Link, moved: Moved) -> Outcome:
    """Return the outcome of an action as if it had been made here.

    Raises BuildError and OSError.
    """
    outcome = Outcome(
        node=action.node,
        seconds=told.seconds,
        peak_rss=told.peak_rss,
        numerics=told.numerics,
    )
    if told.key != action.key:
        raise StepError(f"{link.label} told the outcome of another key", hint="build again")
    if told.error is not None:
        return outcome._replace(error=BuildError.from_json(told.error, action.target))
    if told.lost or not told.manifest:
        raise StepError(f"{link.label} brought back nothing", hint="build again")
    store = Store(Path(action.store), privacy.mode_of(action))
    try:
        manifest = _fetch_all(store, told, link, moved)
        _find_lenders(store, action, manifest)
        if fault := store.missing(manifest, computed=True):
            raise fault
        if not told.is_stored:
            store.restore(manifest, Path(action.out))
    except (Damaged, ValueError) as e:
        raise StepError(
            f"what {link.label} brought back of {action.target} is not whole: {e}",
            hint="build again",
        ) from None
    result = Result(
        digests=told.digests,
        metrics=told.metrics,
        provenance=told.provenance,
        manifest=told.manifest,
    )
    return outcome._replace(result=result)


def _fetch_all(store: Store, told: PortableOutcome, link: Link, moved: Moved) -> Manifest:
    """Fetch the manifest and the blobs that it names, and no others. Raises ValueError."""
    told_of = {blob.digest: blob for blob in told.blobs}
    first = told_of.get(told.manifest)
    if first is None or first.size > MOST_MANIFEST:
        raise ValueError("its manifest is missing, or too large")
    if not store.has(first.digest, first.size):
        _fetch(store, first, link, lambda _count: None)
    manifest = store.manifest(told.manifest)
    runs = {digest: size for entry in manifest.files for digest, size in entry.runs()}
    wanted = [
        told_of[digest]
        for digest, size in runs.items()
        if digest in told_of and told_of[digest].size == size and not store.has(digest, size)
    ]
    total, done = sum(blob.size for blob in wanted), 0
    for blob in wanted:
        _fetch(store, blob, link, partial(_moved_of, moved, done, total))
        done += blob.size
    return manifest


def _moved_of(moved: Moved, before: int, total: int, count: int) -> None:
    moved(before + count, total)


def _fetch(store: Store, blob: RemoteBlob, link: Link, moved: Callable[[int], None]) -> None:
    """Fetch a blob, piece by piece. Raises StoreError where it is not what was told."""
    sha256, offset = hashlib.sha256(), 0
    with store.batch() as batch:
        writer = batch.blob()
        while offset < blob.size:
            piece = link.move("get", partial(_get, blob, offset)).blob
            if not piece:
                raise StoreError(
                    f"the blob {blob.digest[:8]} is not on {link.label} any more",
                    hint="build again",
                )
            sha256.update(piece)
            writer.write(piece)
            offset += len(piece)
            moved(offset)
        if offset != blob.size or (writer.digest(), sha256.hexdigest()) != (
            blob.digest,
            blob.sha256,
        ):
            raise StoreError(
                f"the blob {blob.digest[:8]} from {link.label} is not what its digests say",
                hint="build again; is its disk in order?",
            )
        writer.done()


def _find_lenders(store: Store, action: Action, manifest: Manifest) -> None:
    """Note where the tensors lie here that the result borrows from an input."""
    for source in action.inputs.values():
        if manifest.base and source.digest == manifest.base and source.folder:
            tensor_locations.of_folder(store.root, manifest.base, Path(source.folder))
