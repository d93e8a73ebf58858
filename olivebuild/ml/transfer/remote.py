"""A remote cache on object storage, a web server or a folder.

obstore streams both ways with bounded memory. Credentials are those of the providers' own chains.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from olivebuild.core.errors import BuildError, Damaged, InputError, StoreError
from olivebuild.ml.models.remotes.objects.client import CLIENT, RETRIES
from olivebuild.ml.models.remotes.objects.opened import EXTRAS, shown
from olivebuild.ml.transfer.signing import HINT

PART = 5 << 20
"""Bytes of a part of an upload: the least that S3 takes. Small ones show sooner that they move."""
PARTS = 8
"""Parts of an upload on their way at once, where it is the only one in parts."""
PIECE = 256 << 10
"""The least bytes of a piece of a download. What comes in larger ones seems silent meanwhile."""
TRIES = 4
PAUSE = 0.2
"""Seconds before the second try; before the third twice as many."""
SMALL = 64 << 20
"""The most bytes of an object that is read at once: of a trace."""
FEW: dict[str, Any] = {**RETRIES, "max_retries": 4}
"""Of a request: three seconds in all, so that it is soon known whether a remote is there at all."""
QUICK: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=3),
    "read_timeout": timedelta(seconds=5),
}
"""Of requests for small objects: some servers and networks lose one, and the next is answered.

Less than what a build waits for (engine/remote/process.py), so that there is a next.
"""
FORMS = (
    "file:///FOLDER, s3://BUCKET/PATH, gs://BUCKET/PATH, az://ACCOUNT/CONTAINER/PATH, https://..."
)


class WrongSize(StoreError):
    """An object has not the size that it should have."""


class Entry(NamedTuple):
    """An object as a listing shows it: its size in bytes, and when it was written, by the store."""

    name: str
    size: int
    modified: datetime


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
        self._quick = _impatient(self._store)
        """The same place, for small objects."""
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._lock, self._in_parts = threading.Lock(), 0
        """Uploads in parts that are under way."""
        self.read_only = parts.scheme in ("http", "https")

    def read(self, name: str, limit: int = SMALL) -> bytes | None:
        """Return a small object; None where there is none. Raises StoreError for a large one."""
        import obstore

        try:
            result = obstore.get(self._quick, self._prefix + name)
        except FileNotFoundError:
            return None
        if result.meta["size"] > limit:
            fact = f"it has {result.meta['size']} bytes, more than {limit}"
            raise StoreError(fact, hint=HINT)
        return bytes(result.bytes())

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None where there is none."""
        import obstore

        try:
            return int(obstore.head(self._quick, self._prefix + name)["size"])
        except FileNotFoundError:
            return None

    def pieces(self, name: str, start: int, end: int) -> Iterator[memoryview]:
        """Yield bytes `start` to `end` of an object of `end` bytes, in pieces.

        Raises WrongSize for one of another size, FileNotFoundError.
        """
        import obstore

        options = {"range": (start, end)} if start else {}
        result = obstore.get(self._store, self._prefix + name, options=options)
        if result.meta["size"] != end:
            fact = f"it has {result.meta['size']} bytes instead of {end}"
            raise WrongSize(fact, hint=HINT)
        for piece in result.stream(min_chunk_size=PIECE):
            yield memoryview(piece)

    def write(self, name: str, size: int, parts: Callable[[], Iterator[bytes]]) -> None:
        """Put an object of `size` bytes there, which are those of `parts()`.

        In parts if it is large. Not conditional: uploads in parts are not, and blobs of one name
        have one content. Of two that upload one at once, Azure may refuse either; then the other's
        is as good.
        """
        self._tried(
            lambda: self._put(name, size, parts()),
            lambda: self.size(name) == size,
        )

    def _tried(self, put: Callable[[], None], is_there: Callable[[], bool]) -> None:
        """Put something there, again where that fails, unless it is there all the same.

        A request that fails may have been carried out, and of two that come at once some stores
        refuse both.
        """
        for attempt in range(1, TRIES + 1):
            try:
                put()
                return
            except (BuildError, Damaged):
                # What is read is not what it should be.
                raise
            except Exception:
                if is_there():
                    return
                if attempt == TRIES:
                    raise
                time.sleep(PAUSE * attempt)

    def _put(self, name: str, size: int, parts: Iterator[bytes]) -> None:
        import obstore

        if size <= PART:
            data = b"".join(parts)
            obstore.put(self._store, self._prefix + name, data, use_multipart=False)
            return
        with self._lock:
            self._in_parts += 1
            at_once = max(2, PARTS // self._in_parts)
        try:
            obstore.put(
                self._store,
                self._prefix + name,
                parts,
                chunk_size=PART,
                max_concurrency=at_once,
                use_multipart=True,
            )
        finally:
            with self._lock:
                self._in_parts -= 1

    def create(self, name: str, data: bytes) -> bool:
        """Put a small object where there is none; return whether it is ours that is there.

        Where a connection breaks, obstore asks again, and may meet what it has made: then the
        answer is False. A store answers 409 also where another request for the name is on its way,
        which may fail
        (https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html).
        """
        from obstore.exceptions import AlreadyExistsError

        for attempt in range(1, TRIES + 1):
            try:
                self._put_small(name, data, mode="create")
                return True
            except Exception as e:
                is_first = attempt == 1 and isinstance(e, AlreadyExistsError)
                if is_first and self.size(name) is not None:
                    return False
                if (there := self.read(name)) is not None:
                    # A request that failed may have made it.
                    return there == data
                if attempt == TRIES:
                    raise
                time.sleep(PAUSE * attempt)
        return False

    def replace(self, name: str, data: bytes) -> None:
        """Put a small object there, whether there is one or not."""
        self._tried(lambda: self._put_small(name, data), lambda: self.read(name) == data)

    def _put_small(self, name: str, data: bytes, **options: str) -> None:
        import obstore

        obstore.put(self._quick, self._prefix + name, data, use_multipart=False, **options)

    def entry(self, name: str) -> Entry | None:
        """Return what a listing would show of an object; None where there is none."""
        import obstore

        try:
            meta = obstore.head(self._quick, self._prefix + name)
        except FileNotFoundError:
            return None
        return Entry(name, int(meta["size"]), meta["last_modified"])

    def entries(self, folder: str) -> Iterator[Entry]:
        """Yield all objects below a folder."""
        import obstore

        for metas in obstore.list(self._quick, self._prefix + folder, chunk_size=1000):
            for meta in metas:
                name = str(meta["path"]).removeprefix(self._prefix)
                yield Entry(name, int(meta["size"]), meta["last_modified"])

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is no fault."""
        import obstore

        with suppress(FileNotFoundError):
            obstore.delete(self._quick, self._prefix + name)

    def delete_once(self, name: str) -> None:
        """Delete an object that another may make again, by one request.

        A second one, after an answer that was lost, could delete what is another's. Raises
        PermissionError where the store refuses the right to delete.
        """
        import obstore

        try:
            obstore.delete(self._once, self._prefix + name)
        except FileNotFoundError:
            return
        except Exception as e:
            if _is_refused(e):
                raise PermissionError(reason(e)) from None
            raise

    @cached_property
    def _once(self) -> Any:
        """The same place, where each request is sent once."""
        return _impatient(self._store, {**FEW, "max_retries": 0})


def _open(scheme: str, host: str, path: str, url: str) -> tuple[Any, str]:
    """Return (store, prefix of its names). Raises InputError and ModuleNotFoundError."""
    if scheme == "file" and not host and path.startswith("/"):
        from obstore.store import LocalStore

        return LocalStore(path, mkdir=True), ""
    if scheme in ("http", "https") and host:
        from obstore.store import HTTPStore

        options = {**CLIENT, "allow_http": scheme == "http"}
        return HTTPStore(url, client_options=options, retry_config=FEW), ""
    if scheme == "s3" and host:
        from olivebuild.ml.models.remotes.objects import buckets

        return buckets.open_s3(host, retries=FEW)[0], path
    if scheme == "gs" and host:
        from olivebuild.ml.models.remotes.objects import buckets

        return buckets.open_gs(host, writable=True, retries=FEW)[0], path
    if scheme == "az" and host and path.strip("/"):
        from olivebuild.ml.models.remotes.objects import azure

        container, _, prefix = path.strip("/").partition("/")
        endpoint = f"https://{host}.blob.core.windows.net"
        return azure.open_container(host, container, endpoint=endpoint, retries=FEW)[0], prefix
    raise InputError(f"{url} is no place for a remote cache", hint=f"write {FORMS}")


def _impatient(store: Any, retries: dict[str, Any] | None = None) -> Any:
    """Return the same place with QUICK; a folder as it is. Credentials are not looked for again."""
    options = getattr(store, "client_options", None)
    if options is None:
        return store
    where = (store.url,) if hasattr(store, "url") else ()
    rest: dict[str, Any] = {} if where else {"config": store.config}
    if provider := getattr(store, "credential_provider", None):
        rest["credential_provider"] = provider
    return type(store)(
        *where,
        client_options={**options, **QUICK},
        retry_config=retries or store.retry_config,
        **rest,
    )


OFFLINE = {
    "nobody answers there",
    "there is no such host",
    "there is no connection",
    "it takes too long",
}


REFUSED = re.compile(r"\b403 Forbidden\b|\(code: (403|AccessDenied)\)")
"""In errors of no class of their own: of deletions in groups, as obstore asks S3 and Azure for."""


def _is_refused(error: Exception) -> bool:
    """Return whether a store's error says that one has not the right."""
    text = str(error).partition("Debug source")[0]
    return type(error).__name__ == "PermissionDeniedError" or bool(REFUSED.search(text))


def reason(error: BaseException) -> str:
    """Return what an error of a remote says, without URLs and answers."""
    return shown(error)


def is_offline(error: BaseException) -> bool:
    """Return whether an error says that the remote can't be reached at all."""
    return shown(error) in OFFLINE
