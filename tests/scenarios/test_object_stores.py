"""Builds with data in object stores and on a web server, through the command line."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import Place
from tests.support.object_stores import (
    ACCOUNT,
    KEY,
    Gateway,
    azure_store,
    azurite,
    connection_string,
    make_container,
    moto,
    s3_store,
)
from tests.support.server_faults import slow
from tests.support.web import web

pytestmark = pytest.mark.scenario

ROWS = b"".join(b'{"a": "row %d"}\n' % i for i in range(20))
S3_SECRET = "a-planted/secret+of-s3"
S3_TOKEN = "a-planted-session-token"


@pytest.fixture
def azure(tmp_path: Path) -> Iterator[tuple[Gateway, Place]]:
    """Return (a gateway before Azurite, a recipe's folder where it is reached), with `rows`."""
    import obstore

    with azurite(tmp_path / "azurite") as address:
        make_container(address, "rows")
        obstore.put(azure_store(address, "rows"), "data/rows.jsonl", ROWS)
        gateway = Gateway(address)
        place = Place(tmp_path / "work", tmp_path / "cache")
        place.folder.mkdir()
        string = connection_string(f"{gateway.address}/{ACCOUNT}")
        place.environment |= {"AZURE_STORAGE_CONNECTION_STRING": string}
        yield gateway, place
        gateway.shutdown()
        gateway.server_close()


def _recipe(place: Place, source: str) -> None:
    place.recipe.write_text(
        "targets:\n"
        f'  rows: {{kind: dataset, source: "{source}", text: "{{a}}", near_duplicates: false}}\n'
    )


def _leaks(place: Place, *secrets: str) -> list[str]:
    """Return the files of the recipe's folder and of the cache that hold one of the secrets."""
    words = {form.encode() for secret in secrets for form in (secret, quote(secret, safe=""))}
    return [
        str(path)
        for root in (place.folder, place.cache)
        for path in root.rglob("*")
        if path.is_file() and any(word in path.read_bytes() for word in words)
    ]


def test_rows_of_a_container_are_built_and_its_key_is_nowhere(
    azure: tuple[Gateway, Place],
) -> None:
    gateway, place = azure
    source = f"https://{ACCOUNT}.blob.core.windows.net/rows/data/"
    _recipe(place, source)
    assert place.verdicts() == {"rows": "stale"}
    done = place.build()
    assert done.code == 0, done.err
    assert done.ran == ["rows"]
    lock = json.loads((place.folder / "olivebuild.lock").read_text())
    assert lock["sources"][source].startswith(f"1 files, {len(ROWS)} bytes, listing ")
    assert lock["digests"][source] == {"rows.jsonl": hashlib.sha256(ROWS).hexdigest()}
    gateway.asked.clear()
    assert place.build().ran == []
    place.edit('text: "{a}"', 'text: "- {a}"')
    assert place.build().ran == ["rows"]
    assert gateway.asked == []
    updated = place.run("update", "rows")
    assert updated.out.endswith(f"{source}: unchanged\n")
    assert len(gateway.asked) == 1
    assert json.loads((place.folder / "olivebuild.lock").read_text()) == lock
    # A failure tells no more.
    place.edit("rows/data/", "rows/gone/")
    failed = place.run("build")
    assert failed.code == 1
    assert "olivebuild.yaml:2:" in failed.err
    assert "it does not exist" in failed.err
    log = place.run("log", "rows")
    said = "".join(one.out + one.err for one in (done, updated, failed, log))
    assert KEY not in said
    assert _leaks(place, KEY) == []


def test_rows_of_a_bucket_are_built_and_its_secrets_are_nowhere(place: Place) -> None:
    import obstore

    with moto() as address:
        store = s3_store(address, "rows-of-a-bucket")
        obstore.put(store, "data/rows.jsonl", ROWS)
        place.environment |= {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
            "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            "AWS_SESSION_TOKEN": S3_TOKEN,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
        }
        _recipe(place, "s3://rows-of-a-bucket/data/*.jsonl")
        done = place.build()
        assert done.ran == ["rows"], done.err
        obstore.put(store, "data/rows.jsonl", ROWS + b'{"a": "another"}\n')
        # What is pinned and here is enough, until it is asked for.
        assert place.build().ran == []
        updated = place.run("update", "rows")
        assert " -> 1 files, " in updated.out
        again = place.build()
        assert again.ran == ["rows"]
    said = "".join(one.out + one.err for one in (done, updated, again))
    assert S3_SECRET not in said
    assert S3_TOKEN not in said
    assert _leaks(place, S3_SECRET, S3_TOKEN) == []


def test_a_killed_download_goes_on_with_what_is_missing(azure: tuple[Gateway, Place]) -> None:
    import obstore

    gateway, place = azure
    data = b"".join(b'{"a": "%d %s"}\n' % (i, b"x" * 100_000) for i in range(640))
    store = azure_store(f"http://{gateway.upstream}/{ACCOUNT}", "rows")
    obstore.put(store, "long.jsonl", data)
    _recipe(place, f"az://{ACCOUNT}/rows/long.jsonl")
    gateway.faults.append(slow(0.3))
    process = place.start("build")
    lists = f"{place.cache}/downloads/*/parts/*.segments"
    deadline = time.monotonic() + 60
    while not _noted(lists) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = _noted(lists)
    segments = -(-len(data) // (8 << 20))
    assert 0 < first < segments
    gateway.faults.clear()
    time.sleep(0.5)
    gateway.asked.clear()
    there = _noted(lists)
    done = place.build()
    assert done.code == 0, done.err
    gets = [line for line in gateway.asked if line.startswith("GET ")]
    assert len(gets) == segments - there
    assert "the download goes on" in done.out
    (file,) = place.cache.glob("downloads/*/files/long.jsonl")
    assert file.read_bytes() == data


def _noted(pattern: str) -> int:
    """Return the number of segments that are noted as being there."""
    import glob

    return sum(Path(p).read_text().count("\n") - 1 for p in glob.glob(pattern))


def test_a_file_of_a_web_server_is_built_from_its_digest(place: Place) -> None:
    with web() as server:
        server.files["/rows.jsonl"] = ROWS
        _recipe(place, f"{server.address}/rows.jsonl")
        assert place.build().ran == ["rows"]
        server.asked.clear()
        place.edit('text: "{a}"', 'text: "- {a}"')
        assert place.build().ran == ["rows"]
        assert server.asked == []


def test_a_signature_in_a_recipe_is_refused_and_not_repeated(place: Place) -> None:
    _recipe(place, "https://acct.blob.core.windows.net/c/x.jsonl?sv=2024&sig=planted")
    for words in (("plan",), ("build",), ("plan", "--set", "rows.source=https://a:planted@b/c")):
        done = place.run(*words)
        assert done.code == 2
        assert "planted" not in done.out + done.err
        assert "credentials come from the environment or a login" in done.err
    assert not (place.folder / "olivebuild.lock").exists()
