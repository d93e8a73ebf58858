"""A web server on loopback with entity tags and ranges, which fails when it is told to."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.server_faults import Fault


class Web(http.server.ThreadingHTTPServer):
    """Serve `files`, path -> content. Faults are called as those of a gateway of object stores."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.faults: list[Fault] = []
        self.tagged = True

    @property
    def address(self) -> str:
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://localhost:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Web

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.headers.append(dict(self.headers.items()))
        if any(fault(self) for fault in self.server.faults):
            return
        if self.path.partition("?")[0] in self.server.files:
            self.send(*self.answer_of())
        else:
            self.send(404, [], b"secret-in-an-answer")

    do_HEAD = do_GET  # noqa: N815

    def answer_of(self) -> tuple[int, list[tuple[str, str]], bytes]:
        data = self.server.files[self.path.partition("?")[0]]
        tag = hashlib.sha256(data).hexdigest()[:16]
        headers = [("ETag", f'"{tag}"')] if self.server.tagged else []
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and self.headers.get("If-Range") == f'"{tag}"':
            first = int(start[1])
            headers.append(("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}"))
            headers.append(("Content-Length", str(len(data) - first)))
            return 206, headers, data[first:]
        return 200, [*headers, ("Content-Length", str(len(data)))], data

    def send(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@contextlib.contextmanager
def web(certificate: Path | None = None) -> Iterator[Web]:
    """Run the server; over TLS with a certificate, as `certificate` makes it."""
    server = Web()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def certificate(folder: Path) -> Path:
    """Return a file with a new key and a certificate for localhost, signed by itself."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "localhost.pem"
    encoding = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        + signed.public_bytes(encoding)
    )
    return file
