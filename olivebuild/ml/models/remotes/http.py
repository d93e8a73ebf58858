"""Files of web servers: pinned to their SHA-256, downloaded with resumption.

Over the standard library, which knows proxies and SSL_CERT_FILE; no credential is ever sent.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.formats.object_urls import LOOPBACK
from olivebuild.formats.source import Source
from olivebuild.ml.models.remotes.downloads import Downloads
from olivebuild.ml.models.remotes.sha256 import sha256_of
from olivebuild.ml.models.remotes.wanted import Wanted

PIECE = 1 << 20
"""Bytes read at once."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""
WAITS = (0.2, 1.0, 3.0, 5.0)
"""Seconds before each further attempt."""
AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses that may pass: https://www.rfc-editor.org/rfc/rfc9110#section-15."""


class Pin(NamedTuple):
    """A file as olivebuild.lock has it: `sha256 HEX, size N, etag TAG`."""

    sha256: str
    size: int
    etag: str

    def __str__(self) -> str:
        return f"sha256 {self.sha256}, size {self.size}, etag {self.etag}"

    @classmethod
    def parse(cls, text: str) -> Pin | None:
        match = re.fullmatch(r"sha256 ([0-9a-f]{64}), size (\d+), etag (.*)", text)
        return cls(match[1], int(match[2]), match[3]) if match else None


def pin(job: Job, source: Source) -> str:
    """Return the digest of the file, fetched unless its entity tag is still the pinned one.

    Raises InputError.
    """
    before = Pin.parse(job.action.pin)
    if before and before.etag:
        with _Opened(job, source, method="HEAD") as answer:
            if (answer.etag, answer.length) == (before.etag, before.size):
                return str(before)
    # Under its own name, since its digest is not known yet.
    raw = Downloads.of(job, source, "")
    with raw.in_use():
        part = raw.parts / _name_of(source)
        etag = _download(job, source, part)
        now = Pin(sha256_of(part), part.stat().st_size, etag)
        downloads = Downloads.of(job, source, str(now))
        with downloads.in_use():
            _keep(part, now, source, downloads)
    return str(now)


def fetch(job: Job, source: Source, _wanted: Wanted) -> Path:
    """Return the file as it is pinned. Raises InputError where the server has another now."""
    downloads, pinned = Downloads.of(job, source, job.action.pin), Pin.parse(job.action.pin)
    name = _name_of(source)
    if pinned is None:
        raise InputError(
            f"{source.text}: olivebuild.lock pins it to {job.action.pin[:40]!r}",
            where=job.where("source"),
            hint=f"`olivebuild update {job.action.target}` pins it anew",
        )
    with downloads.in_use():
        if downloads.lacking({name: pinned.size}, job):
            job.note(f"fetching {source.text}")
            part = downloads.parts / name
            _download(job, source, part)
            now = sha256_of(part)
            if now != pinned.sha256:
                part.unlink()
                raise InputError(
                    f"{source.text} has sha256 {now[:16]}..., olivebuild.lock says "
                    f"{pinned.sha256[:16]}...",
                    where=job.where("source"),
                    hint=f"if the change is expected: `olivebuild update {job.action.target}`",
                )
            _keep(part, pinned, source, downloads)
    return downloads.files / name


def _keep(part: Path, pinned: Pin, source: Source, downloads: Downloads) -> None:
    """Put a whole file in its place."""
    os.replace(part, downloads.files / _name_of(source))
    part.with_name(part.name + ".etag").unlink(missing_ok=True)
    downloads.keep({_name_of(source): pinned.sha256})
    downloads.finish({_name_of(source): pinned.size})


def _name_of(source: Source) -> str:
    """Return the file's name: what a reader takes its kind from."""
    return unquote(urlsplit(source.name).path.rpartition("/")[2]).replace(":", "_")


def _download(job: Job, source: Source, part: Path) -> str:
    """Bring the file into `part`, from where an earlier download of it ended; return its tag.

    Raises InputError.
    """
    for wait in (*WAITS, None):
        try:
            return _attempt(job, source, part)
        except (OSError, http.client.HTTPException) as e:
            if isinstance(e, urllib.error.HTTPError) and e.code not in AGAIN:
                raise _unreachable(job, source, e) from None
            if isinstance(e, OSError) and not isinstance(e, urllib.error.URLError) and e.filename:
                # The disk's, not the connection's.
                raise
            if wait is None:
                raise _unreachable(job, source, e) from None
            time.sleep(wait)
    raise AssertionError


def _attempt(job: Job, source: Source, part: Path) -> str:
    """Ask once. Raises OSError, HTTPException or InputError."""
    tag_file = part.with_name(part.name + ".etag")
    old_etag = tag_file.read_text("utf-8") if tag_file.is_file() and part.is_file() else ""
    start = part.stat().st_size if old_etag else 0
    headers = {"Range": f"bytes={start}-", "If-Range": f'"{old_etag}"'} if start else {}
    with _Opened(job, source, headers=headers) as answer:
        if not (start and answer.status == 206 and answer.start == start):
            start = 0
        if answer.etag and not answer.weak:
            tag_file.write_text(answer.etag, "utf-8")
        else:
            tag_file.unlink(missing_ok=True)
        total = start + answer.length if answer.length >= 0 else 0
        with open(part, "ab" if start else "wb") as out:
            while piece := answer.read(PIECE):
                out.write(piece)
                job.progress("fetching", out.tell(), total)
        if total and part.stat().st_size != total:
            raise http.client.IncompleteRead(b"")
        return answer.etag


class _Opened:
    """An answer of the server. Raises OSError, HTTPException or InputError when it is entered."""

    def __init__(
        self,
        job: Job,
        source: Source,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        headers = {"Accept-Encoding": "identity", "User-Agent": "olivebuild", **(headers or {})}
        self._request = urllib.request.Request(source.name, method=method, headers=headers)  # noqa: S310 - https, or loopback
        self._job, self._source, self._method = job, source, method

    def __enter__(self) -> _Opened:
        opener = urllib.request.build_opener(_Redirects)
        try:
            self._answer = opener.open(self._request, timeout=TIMEOUT)
        except (OSError, http.client.HTTPException) as e:
            if isinstance(e, urllib.error.HTTPError):
                e.close()
            if self._method == "HEAD" or _is_certificate(e):
                raise _unreachable(self._job, self._source, e) from None
            raise
        if self._answer.headers.get("Content-Encoding", "identity") != "identity":
            raise InputError(
                f"{self._source.text}: the server packs what it sends, though it was asked not to",
                where=self._job.where("source"),
                hint="fetch it yourself, and name the file",
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()

    def read(self, size: int) -> bytes:
        data: bytes = self._answer.read(size)
        return data

    @property
    def status(self) -> int:
        return int(self._answer.status)

    @property
    def weak(self) -> bool:
        return str(self._answer.headers.get("ETag", "")).startswith("W/")

    @property
    def etag(self) -> str:
        return str(self._answer.headers.get("ETag", "")).removeprefix("W/").strip('"')

    @property
    def length(self) -> int:
        """Bytes of this answer; -1 where the server does not say."""
        text = str(self._answer.headers.get("Content-Length", ""))
        return int(text) if text.isdecimal() else -1

    @property
    def start(self) -> int:
        match = re.match(r"bytes (\d+)-", str(self._answer.headers.get("Content-Range", "")))
        return int(match[1]) if match else 0


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but to no address that is not encrypted."""

    def redirect_request(
        self, request: Any, answer: Any, *status: Any
    ) -> urllib.request.Request | None:
        url = urlsplit(str(status[-1]))
        if url.scheme != "https" and url.hostname not in LOOPBACK:
            answer.close()
            raise urllib.error.URLError("it sends on to an address that is not encrypted")
        return super().redirect_request(request, answer, *status)


def _is_certificate(error: BaseException) -> bool:
    return "CERTIFICATE_VERIFY" in str(error)


def _unreachable(job: Job, source: Source, error: BaseException) -> InputError:
    """Return the error of a server. What it answered is not in it."""
    hint = "is the address right, and the server reachable?"
    if isinstance(error, urllib.error.HTTPError):
        fact = (
            f"the server answers {error.code} {http.client.responses.get(error.code, '')}".strip()
        )
        if error.code in (401, 403):
            hint = "it is not for everybody: fetch it yourself, and name the file"
    elif _is_certificate(error):
        fact, hint = (
            "the server's certificate is not trusted",
            "SSL_CERT_FILE names a file of certificates to trust",
        )
    elif isinstance(error, TimeoutError) or "timed out" in str(error):
        fact = "it takes too long"
    elif isinstance(error, urllib.error.URLError):
        fact = str(getattr(error.reason, "strerror", None) or error.reason).lower()
    else:
        fact = "the connection broke off"
    return InputError(f"{source.text}: {fact}", where=job.where("source"), hint=hint)
