"""A remote cache on object storage, a web server or a folder.

obstore streams both ways with bounded memory. Credentials are those of the providers' own chains.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from olivebuild.core.errors import InputError
from olivebuild.ml.models.remotes.objects.client import CLIENT, RETRIES
from olivebuild.ml.models.remotes.objects.opened import EXTRAS, shown
from olivebuild.ml.models.remotes.sha256 import sha256_of

CHUNK = 8 << 20
"""Bytes of a part of an upload, and of a piece of a download."""
TRIES = 4
FORMS = (
    "file:///FOLDER, s3://BUCKET/PATH, gs://BUCKET/PATH, az://ACCOUNT/CONTAINER/PATH, https://..."
)


class Remote:
    """A place that holds objects by name."""

    def __init__(self, url: str) -> None:
        """Raises InputError for a URL that is none of FORMS, or needs what is not installed."""
        self.url = url
        parts = urlsplit(url)
        try:
            self._store, prefix = _open(parts.scheme, parts.netloc, unquote(parts.path), url)
        except ModuleNotFoundError as e:
            library = (e.name or "").partition(".")[0]
            raise InputError(
                f"{url} needs the library {library}, which is not installed",
                hint=f"pip install 'olivebuild[{EXTRAS.get(parts.scheme, 's3')}]'",
            ) from None
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.read_only = parts.scheme in ("http", "https")

    def read(self, name: str) -> bytes | None:
        """Return a small object; None where there is none."""
        import obstore

        try:
            return bytes(obstore.get(self._store, self._prefix + name).bytes())
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None where there is none."""
        import obstore

        try:
            return int(obstore.head(self._store, self._prefix + name)["size"])
        except FileNotFoundError:
            return None

    def pieces(self, name: str) -> Iterator[memoryview]:
        """Yield an object's bytes, in pieces. Raises FileNotFoundError."""
        import obstore

        for piece in obstore.get(self._store, self._prefix + name).stream(min_chunk_size=CHUNK):
            yield memoryview(piece)

    def write(self, name: str, path: Path, moved: Callable[[int], None]) -> str:
        """Put a file there, in parts if it is large; return its SHA-256.

        Not conditional: uploads in parts are not, and blobs of one name have one content. Of two
        that upload one at once, Azure may refuse either; then the other's is as good. `moved` is
        told how many bytes are on their way.
        """
        size = path.stat().st_size
        for attempt in range(1, TRIES + 1):
            try:
                return self._put(name, path, size, moved)
            except Exception:
                if self.size(name) == size:
                    return sha256_of(path)
                if attempt == TRIES:
                    raise
                time.sleep(0.2 * attempt)
        raise AssertionError

    def _put(self, name: str, path: Path, size: int, moved: Callable[[int], None]) -> str:
        import obstore

        digest = hashlib.sha256()

        def parts() -> Iterator[bytes]:
            with open(path, "rb") as f:
                while piece := f.read(CHUNK):
                    digest.update(piece)
                    moved(len(piece))
                    yield piece

        if size <= CHUNK:
            data = path.read_bytes()
            obstore.put(self._store, self._prefix + name, data, use_multipart=False)
            return hashlib.sha256(data).hexdigest()
        obstore.put(
            self._store,
            self._prefix + name,
            parts(),
            chunk_size=CHUNK,
            max_concurrency=2,
            use_multipart=True,
        )
        return digest.hexdigest()

    def create(self, name: str, data: bytes) -> bool:
        """Put a small object where there is none; return whether it is ours that is there."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            obstore.put(self._store, self._prefix + name, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True


def _open(scheme: str, host: str, path: str, url: str) -> tuple[Any, str]:
    """Return (store, prefix of its names). Raises InputError and ModuleNotFoundError."""
    if scheme == "file" and not host and path.startswith("/"):
        from obstore.store import LocalStore

        return LocalStore(path, mkdir=True), ""
    if scheme in ("http", "https") and host:
        from obstore.store import HTTPStore

        options = {**CLIENT, "allow_http": scheme == "http"}
        return HTTPStore(url, client_options=options, retry_config=RETRIES), ""
    if scheme == "s3" and host:
        from olivebuild.ml.models.remotes.objects import buckets

        return buckets.open_s3(host)[0], path
    if scheme == "gs" and host:
        from olivebuild.ml.models.remotes.objects import buckets

        return buckets.open_gs(host, writable=True)[0], path
    if scheme == "az" and host and path.strip("/"):
        from olivebuild.ml.models.remotes.objects import azure

        container, _, prefix = path.strip("/").partition("/")
        endpoint = f"https://{host}.blob.core.windows.net"
        return azure.open_container(host, container, endpoint=endpoint)[0], prefix
    raise InputError(f"{url} is no place for a remote cache", hint=f"write {FORMS}")


def reason(error: BaseException) -> str:
    """Return what an error of a remote says, without URLs and answers."""
    return shown(error)
