"""Marks of use: once a day, and none where nothing can be written."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from olivebuild.ml.transfer.claims.heartbeats import Heartbeats
from olivebuild.ml.transfer.claims.uses import DAY, USES, Uses, use_of
from olivebuild.ml.transfer.remote import Remote

KEY = "ab" * 16


def note(root: Path, url: str, cache: str, *keys: str) -> None:
    remote = Remote(url)
    uses = Uses(remote, Heartbeats(remote), root / cache)
    (root / cache).mkdir(exist_ok=True)
    for key in keys:
        uses.note(key)
    uses.close()


def test_a_use_is_noted_once_a_day(tmp_path: Path) -> None:
    url = (tmp_path / "remote").as_uri()
    note(tmp_path, url, "one", KEY)
    file = tmp_path / "remote" / use_of(KEY)
    now = time.time()
    for age, cache, is_new in (
        (DAY / 2, "other", False),
        (2 * DAY, "third", True),
        # This one has seen it today.
        (2 * DAY, "third", False),
    ):
        os.utime(file, (now - age, now - age))
        note(tmp_path, url, cache, KEY)
        assert (file.stat().st_mtime > now - 60) is is_new
    kept = next((tmp_path / "third").iterdir())
    kept.write_text(json.dumps({KEY: now - 2 * DAY}))
    note(tmp_path, url, "third", KEY)
    assert file.stat().st_mtime > now - 60


def test_what_there_is_no_time_for_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olivebuild.ml.transfer.claims.uses.LAST_SECONDS", 0.0)
    remote = Remote((tmp_path / "remote").as_uri())
    uses = Uses(remote, Heartbeats(remote), tmp_path)
    for number in range(1000):
        uses.note(f"{number:032x}")
    uses.close()
    there = len(list(remote.entries(USES)))
    (kept,) = tmp_path.glob("remote-uses-*.json")
    assert len(json.loads(kept.read_text())) == there <= 1000


def test_a_web_server_is_not_written_to(tmp_path: Path) -> None:
    note(tmp_path, "http://127.0.0.1:9/", "one", KEY)
    assert list((tmp_path / "one").iterdir()) == []
