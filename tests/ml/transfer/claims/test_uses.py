"""Marks of use: once a day, and none where nothing can be written."""

from __future__ import annotations

import os
import time
from pathlib import Path

from olivebuild.ml.transfer.claims.heartbeats import Heartbeats
from olivebuild.ml.transfer.claims.uses import DAY, Uses, use_of
from olivebuild.ml.transfer.remote import Remote

KEY = "ab" * 16


def test_a_use_is_noted_once_a_day(tmp_path: Path) -> None:
    remote = Remote((tmp_path / "remote").as_uri())
    uses = Uses(remote, Heartbeats(remote))
    uses.note(KEY)
    file = tmp_path / "remote" / use_of(KEY)
    now = time.time()
    for age, is_new in ((DAY / 2, False), (2 * DAY, True)):
        os.utime(file, (now - age, now - age))
        uses.note(KEY)
        assert (file.stat().st_mtime > now - 60) is is_new


def test_a_web_server_is_not_written_to() -> None:
    remote = Remote("http://127.0.0.1:9/")
    Uses(remote, Heartbeats(remote)).note(KEY)
