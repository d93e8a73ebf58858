"""Credentials that a job keeps for its own places, whatever a recipe names."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("botocore")
pytest.importorskip("google.auth")
pytest.importorskip("obstore")

from olivebuild.core.errors import InputError
from olivebuild.ml.models.remotes.objects.azure import open_container
from olivebuild.ml.models.remotes.objects.buckets import open_gs, open_s3
from olivebuild.ml.models.remotes.objects.credential_hosts import VARIABLE, check
from tests.conftest import Place

KEY = base64.b64encode(b"a key").decode()


class Counting(http.server.ThreadingHTTPServer):
    """Notes what it is asked, and knows nothing."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Counting

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(404)

    do_GET = do_HEAD = do_PUT = _answer  # noqa: N815


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    with Counting() as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        for name, value in {
            VARIABLE: "s3://team-cache, az://team",
            "AWS_ENDPOINT_URL": one.address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AZURE_STORAGE_ACCOUNT": "theirs",
            "AZURE_STORAGE_KEY": KEY,
        }.items():
            monkeypatch.setenv(name, value)
        yield one
        one.shutdown()


def test_without_the_variable_all_places_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    check("s3://any")


@pytest.mark.parametrize("place", ["s3://team", "s3://team-cache-2", "gs://team-cache", "az://t"])
def test_another_place_is_refused(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv(VARIABLE, "s3://team-cache/ az://team")
    check("s3://team-cache")
    check("az://team")
    with pytest.raises(InputError, match=f"not sent to {place}") as e:
        check(place)
    assert e.value.hint == f"{VARIABLE} lists where they may go: s3://team-cache, az://team"


def test_a_bucket_that_a_recipe_names_is_not_asked(server: Counting) -> None:
    with pytest.raises(InputError, match="not sent to s3://theirs"):
        open_s3("theirs")
    with pytest.raises(InputError, match="not sent to az://theirs"):
        open_container("theirs", "container", endpoint=server.address)
    assert open_s3("team-cache")[1]
    assert server.asked == []


def test_google_s_token_is_not_asked_for(
    server: Counting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials.json"
    secrets = {"client_id": "id", "client_secret": "secret", "refresh_token": "token"}
    file.write_text(json.dumps({"type": "authorized_user", **secrets}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with pytest.raises(InputError, match="not sent to gs://theirs"):
        open_gs("theirs")


def test_what_needs_no_credentials_is_read(
    server: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    assert open_s3("public")[1] is False


def test_a_build_says_so(server: Counting, place: Place) -> None:
    place.recipe.write_text(
        "targets:\n  rows: {kind: dataset, source: s3://theirs/rows.jsonl, prompt: '{a}', "
        "completion: '{b}'}\n"
    )
    done = place.run("build", "rows")
    assert done.code != 0
    assert "credentials are not sent to s3://theirs" in done.err
    assert "olivebuild.yaml:2" in done.err
    assert server.asked == []
