"""Requests to a remote cache that are lost, refused, or carried out without an answer."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from olivebuild.ml.transfer import remote as remotes
from olivebuild.ml.transfer.remote import Remote

pytest.importorskip("obstore")
Wrong = Callable[["Container", str], bool]


class Container(http.server.BaseHTTPRequestHandler):
    """A container as the Blob service answers of it, with faults.

    https://learn.microsoft.com/en-us/rest/api/storageservices/put-blob
    """

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    faults: list[tuple[str, str]]
    """(method, what goes wrong) of the next requests, each once."""

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self._fault()
        if fault.startswith(("lost", "refused")):
            return self._fail(fault)
        if self.headers.get("If-None-Match") == "*" and self.path in self.objects:
            return self._send(409, code="BlobAlreadyExists")
        self.objects[self.path] = data
        return self._fail(fault) if fault else self._send(201)

    def do_POST(self) -> None:
        """Delete the one object of a batch.

        https://learn.microsoft.com/en-us/rest/api/storageservices/blob-batch
        """
        data = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fault = self._fault()
        if fault.startswith("refused"):
            return self._fail(fault)
        path = data.partition("DELETE ")[2].partition(" ")[0]
        answer = "403 Forbidden" if fault == "part" else "202 Accepted"
        if fault != "part":
            self.objects.pop(path)
        if fault == "done, closed":
            return self._fail(fault)
        head = "Content-Type: application/http\r\nContent-ID: 0"
        body = f"--b\r\n{head}\r\n\r\nHTTP/1.1 {answer}\r\n\r\n\r\n--b--\r\n"
        return self._send(202, body.encode(), kind="multipart/mixed; boundary=b")

    def do_GET(self) -> None:
        if fault := self._fault():
            return self._fail(fault)
        if self.path not in self.objects:
            return self._send(404, code="BlobNotFound")
        return self._send(200, self.objects[self.path])

    def do_HEAD(self) -> None:
        self.do_GET()

    def _fault(self) -> str:
        for number, (method, fault) in enumerate(self.faults):
            if method == self.command:
                del self.faults[number]
                return fault
        return ""

    def _fail(self, fault: str) -> None:
        if "silent" in fault:
            time.sleep(SILENCE)
            self.close_connection = True
        elif "closed" in fault:
            self.close_connection = True
        else:
            self._send(int(fault.rpartition(" ")[2]), code="ConditionNotMet")

    def _send(self, status: int, data: bytes = b"", code: str = "", kind: str = "") -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if code:
            self.send_header("x-ms-error-code", code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Sat, 28 Nov 2026 10:00:00 GMT")
        self.send_header("ETag", '"0x1"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


SILENCE = 3.0
"""Seconds; longer than a client of these tests waits."""


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Container]]:
    """Yield the state of a container that runs, of the account that the environment opens."""
    state = type("Container", (Container,), {"objects": {}, "faults": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), state) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/teams"
        settings = f"AccountName=teams;AccountKey=cGxhbnRlZA==;BlobEndpoint={address};"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", settings)
        monkeypatch.setitem(remotes.QUICK, "read_timeout", timedelta(seconds=0.5))
        monkeypatch.setattr(remotes, "PAUSE", 0.01)
        yield state
        server.shutdown()


@pytest.fixture
def remote(container: type[Container]) -> Remote:
    return Remote("az://teams/models/cache")


LOST = ["lost, silent", "lost, closed", "refused, 409", "refused, 412", "refused, 404"]
DONE = ["done, silent", "done, closed", "done, 500"]
ASKED_AGAIN = DONE[1:]
"""After these obstore itself asks again, and meets what it has made: leases look whose it is."""


@pytest.mark.parametrize("fault", [*LOST, *DONE])
def test_an_object_is_made_though_the_first_request_fails(
    container: type[Container], remote: Remote, fault: str
) -> None:
    container.faults.append(("PUT", fault))
    assert remote.create("t/key", b"ours") is (fault not in ASKED_AGAIN)
    assert not remote.create("t/key", b"others")
    assert list(container.objects.values()) == [b"ours"]


@pytest.mark.parametrize("fault", LOST)
def test_what_another_made_meanwhile_is_not_ours(
    container: type[Container], remote: Remote, fault: str
) -> None:
    assert remote.create("t/key", b"others")
    container.faults.append(("PUT", fault))
    assert not remote.create("t/key", b"ours!!")
    assert list(container.objects.values()) == [b"others"]


@pytest.mark.parametrize("fault", [*LOST, *DONE])
def test_an_object_is_replaced_though_the_first_request_fails(
    container: type[Container], remote: Remote, fault: str
) -> None:
    # Of the same size: that there is one says nothing.
    assert remote.create("t/key", b"older")
    container.faults.append(("PUT", fault))
    remote.replace("t/key", b"newer")
    assert list(container.objects.values()) == [b"newer"]


@pytest.mark.parametrize("fault", ["silent", "closed"])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_question_that_is_lost_is_asked_again(
    container: type[Container], remote: Remote, method: str, fault: str
) -> None:
    assert remote.create("t/key", b"ours")
    container.faults.append((method, fault))
    assert remote.size("t/key") == 4
    assert remote.read("t/key") == b"ours"
    assert container.faults == []


def test_a_store_that_refuses_for_good_is_told(container: type[Container], remote: Remote) -> None:
    container.faults += [("PUT", "refused, 409")] * remotes.TRIES
    with pytest.raises(Exception, match="409"):
        remote.create("t/key", b"ours")
    assert container.objects == {}


@pytest.mark.parametrize("fault", ["refused, 403", "part"])
def test_who_may_not_delete_is_told_so(
    container: type[Container], remote: Remote, fault: str
) -> None:
    assert remote.create("t/key", b"ours")
    container.faults.append(("POST", fault))
    with pytest.raises(PermissionError):
        remote.delete_once("t/key")
    remote.delete_once("t/key")
    assert container.objects == {}


@pytest.mark.parametrize("fault", ["done, closed", "refused, 500", "refused, 409"])
def test_one_deletion_is_one_request(
    container: type[Container], remote: Remote, fault: str
) -> None:
    assert remote.create("t/key", b"ours")
    container.faults += [("POST", fault), ("POST", "part")]
    with pytest.raises(Exception, match="bulk delete") as e:
        remote.delete_once("t/key")
    assert not isinstance(e.value, PermissionError)
    assert container.faults == [("POST", "part")]


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("DeleteObjects request failed for key k: Access Denied (code: AccessDenied)", True),
        ("DeleteObjects request failed for key k: Slow down (code: SlowDown)", False),
        ("500 Internal Server Error\n\nDebug source: 403 Forbidden", False),
    ],
)
def test_what_a_refusal_is(text: str, *, is_refused: bool) -> None:
    assert remotes._is_refused(Exception(text)) is is_refused
