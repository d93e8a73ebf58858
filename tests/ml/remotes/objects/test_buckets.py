"""Buckets, opened with what the environment says; nothing is asked over the network."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("botocore")
pytest.importorskip("google.auth")
pytest.importorskip("obstore")

from google.oauth2.credentials import Credentials

from olivebuild.ml.models.remotes.objects.buckets import (
    LIFETIME,
    NAMED,
    _gs_provider,
    open_gs,
    open_s3,
)
from tests.ml.remotes.asking import Asking

LOOPBACK = "http://127.0.0.1:9"


IDENTITY = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/workloadIdentityPools/p/providers/q",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
}
"""The file that a workload of another cloud or of a CI service has."""


class TokenService(BaseHTTPRequestHandler):
    """Exchanges any token (RFC 8693)."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = {
            "access_token": "exchanged",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without credentials, and without a metadata server to ask."""
    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_GCE_CHECK": "true",
        "CLOUDSDK_CONFIG": str(tmp_path),
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)


def test_without_credentials_a_bucket_is_asked_unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    store, signed = open_s3("bucket")
    assert not signed
    assert store.config == {"bucket": "bucket", "region": "eu-west-1", "skip_signature": "true"}
    assert store.client_options["allow_http"] == "false"


def test_credentials_and_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", LOOPBACK)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    store, signed = open_s3("bucket")
    assert signed
    assert store.config == {"bucket": "bucket", "region": "us-east-1", "endpoint": LOOPBACK}
    assert "planted" not in repr(store)
    keys = store.credential_provider()
    assert (keys["access_key_id"], keys["secret_access_key"]) == ("AK", "planted")
    assert timedelta() < keys["expires_at"] - datetime.now(UTC) <= LIFETIME


def test_a_profile_of_the_users_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(
        "[profile team]\nregion = eu-north-1\naws_access_key_id = AK\n"
        "aws_secret_access_key = planted\naws_session_token = t\n",
        "utf-8",
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "team")
    store, signed = open_s3("bucket")
    assert signed
    assert store.config["region"] == "eu-north-1"
    assert store.credential_provider()["token"] == "t"


@pytest.mark.parametrize("address", ["127.0.0.1:9", LOOPBACK])
def test_an_emulator_is_asked_unsigned(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    store, signed = open_gs("bucket")
    assert not signed
    assert store.config == {"bucket": "bucket", "base_url": LOOPBACK, "skip_signature": "true"}
    assert store.client_options["allow_http"] == "true"


@pytest.mark.parametrize("text", ["{", '{"type": "service_account"}', None])
def test_credentials_that_are_named_and_no_use_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "key.json"
    if text is not None:
        file.write_text(text, "utf-8")
    monkeypatch.setenv(NAMED, str(file))
    asking = Asking(tmp_path, "gs://bucket/a.csv")
    caught = asking.error(asking.pin)
    assert caught.fact.startswith("gs://bucket/a.csv: the settings of the environment are no use: ")
    assert os.environ[NAMED] == str(file)


def test_the_identity_of_a_workload_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with HTTPServer(("127.0.0.1", 0), TokenService) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "subject").write_text("a subject's token", "utf-8")
        file = tmp_path / "key.json"
        file.write_text(
            json.dumps(
                IDENTITY
                | {
                    "token_url": f"http://127.0.0.1:{server.server_port}/v1/token",
                    "credential_source": {"file": str(tmp_path / "subject")},
                }
            ),
            "utf-8",
        )
        monkeypatch.setenv(NAMED, str(file))
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project")
        store, signed = open_gs("bucket")
        server.shutdown()
    assert signed
    assert store.credential_provider()["token"] == "exchanged"


def test_a_profile_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "gone")
    asking = Asking(tmp_path, "s3://bucket/a.csv")
    assert "The config profile (gone) could not be found" in asking.error(asking.pin).fact


def test_a_token_ends_at_a_time_with_a_zone() -> None:
    later = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    credentials = Credentials(token="t", expiry=later)
    token = _gs_provider(credentials)()
    assert token == {"token": "t", "expires_at": later.replace(tzinfo=UTC)}
    endless = _gs_provider(Credentials(token="t"))()
    assert timedelta() < endless["expires_at"] - datetime.now(UTC) <= LIFETIME
