"""Records of a remote cache: what lies under which name there, and the text of a result.

    v1/blobs/ab/<digest>            a blob, as the store has it
    v1/traces/ab/<key>              a result: its trace, and SHA-256 of all that it needs
    v1/traces/ab/<key>.<signer>     another signer's result of the key
    v1/withdrawn/<signer>/<n>       results that count no more (ml/transfer/signed/withdrawals.py)
    v1/history/<name>/<time>-<digest>   a build (ml/transfer/signed/history.py)

A result is written last, and only where there is none: what is to be seen is whole. Its text is a
digest of the rest, a signature, and the body, a line each. XXH3, which names blobs and inputs, is
no defence against malice, so that each also has its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated

from msgspec import Meta, Struct, structs, to_builtins

from olivebuild.cache.key import key_of
from olivebuild.cache.manifest import Digest, Manifest
from olivebuild.cache.store import Store
from olivebuild.cache.traces import Trace
from olivebuild.core import hashing
from olivebuild.core.errors import Damaged
from olivebuild.core.values.strict_json import decode

LAYOUT = "v1"
ELSEWHERE = "not in this cache"
"""The reference of a result that is a folder on the machine that made it."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Meta(ge=0)]


class Signature(Struct, frozen=True, kw_only=True):
    """A signature: of whom (a public key), when (seconds since 1970), and its 64 bytes in base64.

    Empty where a result is not signed.
    """

    signer: str = ""
    time: float = 0.0
    signature: str = ""


class RemoteBlob(Struct, frozen=True, kw_only=True):
    """A blob of a remote cache: its size in bytes, and its SHA-256."""

    digest: Digest
    size: Size
    sha256: Sha256


class InputPlace(Struct, frozen=True, kw_only=True):
    """Where an input of a step lies on this machine, and the digest that the step's key has of it.

    A file or folder at `path`; the folder of a model there; or the output of another result.
    """

    label: str
    digest: str
    path: str = ""
    is_model: bool = False
    code: bool = False
    """A model's Python files count, too."""
    key: str = ""
    output: str = ""
    within: str = "."
    """The path of the output in that result's folder."""


class StepPaths(Struct, frozen=True, kw_only=True):
    """Where a step's inputs lie, and its outputs in its folder: that of which SHA-256 is taken."""

    inputs: tuple[InputPlace, ...] = ()
    outputs: Mapping[str, str] = {}
    """Name -> path."""


class RemoteResult(Struct, frozen=True, kw_only=True):
    """A result in a remote cache. `blobs` has its manifest, too.

    The rest is in signed results: the SHA-256 of what is lent or computed and so in no remote
    cache, and of inputs and outputs, by their labels and names (ml/transfer/signed/sums.py).
    """

    trace: Trace
    blobs: tuple[RemoteBlob, ...] = ()
    elsewhere: tuple[RemoteBlob, ...] = ()
    inputs: Mapping[str, Sha256] = {}
    outputs: Mapping[str, Sha256] = {}

    def body(self) -> bytes:
        """Return its text, which is what is signed."""
        return json.dumps(to_builtins(self), separators=(",", ":")).encode()

    @staticmethod
    def from_body(body: bytes, key: str) -> RemoteResult:
        """Return the result under a key. Raises ValueError for any other text."""
        result = decode(body, RemoteResult)
        if result.trace.key != key or key_of(result.trace.parts) != key:
            raise ValueError("it is another key's")
        if result.trace.manifest and result.trace.manifest not in {b.digest for b in result.blobs}:
            raise ValueError("its manifest is not among its blobs")
        return result


def envelope(body: bytes, signature: Signature) -> bytes:
    """Return the text of an object: a digest of the rest, the signature, and the body."""
    rest = json.dumps(to_builtins(signature), separators=(",", ":")).encode() + b"\n" + body
    return hashing.of_bytes(rest).encode() + b"\n" + rest


def opened(text: bytes) -> tuple[bytes, Signature]:
    """Return (body, signature) of an object's text. Raises ValueError for what is none."""
    check, _, rest = text.partition(b"\n")
    if hashing.of_bytes(rest) != check.decode("ascii", "replace"):
        raise ValueError("it is damaged")
    signature, _, body = rest.partition(b"\n")
    return body, decode(signature, Signature)


def blob_name(digest: str) -> str:
    return f"{LAYOUT}/blobs/{digest[:2]}/{digest}"


def trace_name(key: str, signer: str = "") -> str:
    """Return the name of a key's result, or of that of a signer which lies beside another's."""
    beside = f".{short_name(signer)}" if signer else ""
    return f"{LAYOUT}/traces/{key[:2]}/{key}{beside}"


def short_name(signer: str) -> str:
    """Return the part of a name that stands for a signer."""
    return hashlib.sha256(signer.encode()).hexdigest()[:16]


def shareable(trace: Trace) -> Trace:
    """Return a trace without the folder of the machine that made it."""
    return structs.replace(trace, reference=ELSEWHERE) if trace.reference else trace


def blobs_of(store: Store, trace: Trace) -> Mapping[str, int]:
    """Return digest -> size of the blobs that the store has of a result, its manifest's first.

    What it lends from another folder, or computes, is in no store. Raises Damaged.
    """
    sizes: dict[str, int] = {}
    for blob in _manifests(store, trace.manifest):
        sizes[blob] = store.path(blob).stat().st_size
        sizes |= store.stored_sizes(store.manifest(blob))
    return sizes


def _manifests(store: Store, blob: str) -> Iterator[str]:
    """Yield the manifest of a result, and those of adapters that it computes tensors from."""
    if not blob:
        return
    try:
        manifest: Manifest = store.manifest(blob)
    except ValueError:
        raise Damaged(blob, "is damaged") from None
    yield blob
    for merge in manifest.merges:
        yield from _manifests(store, merge.adapter)
