"""Azurite and moto on loopback, and a gateway before them that fails when it is told to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import http.server
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from olivebuild.ml.models.remotes.objects.azure import EMULATOR
from tests.support.require import require
from tests.support.server_faults import Fault

ACCOUNT, KEY = EMULATOR["AccountName"], EMULATOR["AccountKey"]
AZURITE = shutil.which("azurite-blob")


class Gateway(http.server.ThreadingHTTPServer):
    """Hand requests on to a server, and note them as `METHOD PATH`.

    `faults` are called in turn with each request until one returns True: it has answered.
    """

    daemon_threads = True

    def __init__(self, upstream: str, **headers: str) -> None:
        """`headers` replace those of requests that are handed on."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replaced = headers
        self.upstream = urlsplit(upstream).netloc
        self.asked: list[str] = []
        self.faults: list[Fault] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        self.server.asked.append(f"{self.command} {unquote(self.path)}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if any(fault(self) for fault in self.server.faults):
            return
        status, headers, data = self.answer_of(body)
        self.send(status, headers, data)

    do_GET = do_HEAD = do_PUT = do_POST = _pass_on  # noqa: N815

    def answer_of(self, body: bytes = b"") -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        headers = {name.title(): value for name, value in self.headers.items()}
        headers |= self.server.replaced
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def send(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        """Send an answer; `data` may be shorter than it says it is."""
        self.send_response(status)
        left_out = ("transfer-encoding", "connection", "date", "server", "keep-alive")
        for name, value in headers:
            if name.lower() not in left_out:
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Run Azurite; yield its address with the account. Skips where it is not installed."""
    require("azurite", AZURITE, "needs azurite (npm install -g azurite)")
    options = "--disableTelemetry --skipApiVersionCheck --silent --blobHost 127.0.0.1 --blobPort 0"
    command = [str(AZURITE), *options.split(), "--location", str(folder)]
    with _server(command, r"listens on (http://\S+)", "stdout") as address:
        yield f"{address}/{ACCOUNT}"


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """Run moto's server; yield its address."""
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with _server(command, r"Running on (http://\S+)", "stderr") as address:
        yield address


@contextlib.contextmanager
def _server(command: list[str], pattern: str, stream: str) -> Iterator[str]:
    pipe = {stream: subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipe) as process:  # type: ignore[call-overload]
        try:
            lines: IO[str] = getattr(process, stream)
            yield _announced(lines, pattern)
        finally:
            process.kill()


def _announced(lines: IO[str], pattern: str) -> str:
    """Return what a server says it listens on, and read on so that it never waits for us."""
    seen = []
    for line in lines:
        seen.append(line)
        if match := re.search(pattern, line):
            threading.Thread(target=lines.read, daemon=True).start()
            return match[1]
    raise AssertionError("".join(seen))


def make_container(endpoint: str, name: str) -> None:
    """Create a container: https://learn.microsoft.com/en-us/rest/api/storageservices/create-container."""
    date = format_datetime(datetime.now(UTC), usegmt=True)
    resource = f"/{ACCOUNT}{urlsplit(endpoint).path}/{name}\nrestype:container"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2021-12-02\n{resource}"
    signature = base64.b64encode(
        hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    ).decode()
    request = urllib.request.Request(
        f"{endpoint}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": "2021-12-02",
            "Authorization": f"SharedKey {ACCOUNT}:{signature}",
            "Content-Length": "0",
        },
    )
    urllib.request.urlopen(request, timeout=30).close()


def azure_store(endpoint: str, container: str) -> Any:
    from obstore.store import AzureStore

    return AzureStore(
        container,
        config={"account_name": ACCOUNT, "account_key": KEY, "endpoint": endpoint},
        client_options={"allow_http": True},
    )


@contextlib.contextmanager
def _s3_client(endpoint: str) -> Iterator[Any]:
    import botocore.session

    names = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = botocore.session.get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, **names
    )
    yield client
    client.close()


def keep_versions(endpoint: str, bucket: str) -> None:
    with _s3_client(endpoint) as client:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def s3_store(endpoint: str, bucket: str) -> Any:
    """Return a new bucket."""
    from obstore.store import S3Store

    with _s3_client(endpoint) as client:
        client.create_bucket(Bucket=bucket)
    return S3Store(
        bucket,
        config={
            "endpoint": endpoint,
            "access_key_id": "test",
            "secret_access_key": "test",
            "region": "us-east-1",
        },
        client_options={"allow_http": True},
    )


def connection_string(endpoint: str, key: str = KEY) -> str:
    return f"AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={endpoint};"
