"""Signed results, withdrawals and one history, on Azurite and moto."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.engine.remote.test_builds import builds
from tests.engine.remote.test_cache import Team, notes
from tests.scenarios.test_remote_cache_stores import place

__all__ = ["place"]
pytestmark = pytest.mark.scenario


def test_results_are_signed_withdrawn_and_told_of(tmp_path: Path, place: dict[str, str]) -> None:
    team = Team(tmp_path)
    builder, reader = team.machine("builder", **place), team.machine("reader", **place)
    key = builder.run("remote", "keygen").out.split()[-1]
    builder.build()
    shutil.copyfile(builder.folder / "olivebuild.lock", reader.folder / "olivebuild.lock")
    reader.environment["OLIVEBUILD_TRUSTED_KEYS"] = key
    done = reader.build()
    assert (done.end["ran"], notes(done)) == ([], [])
    assert [b["folder"].rpartition(":")[2] for b in builds(reader)] == [
        "builder",
        str(reader.folder),
    ]
    # A stranger's results lie under other keys, and are not used.
    stranger = team.machine("stranger", **place)
    for machine in (stranger, reader):
        (machine.folder / "in.txt").write_text("edited")
    assert stranger.build().end["ran"] == ["first", "middle", "last"]
    done = reader.build()
    assert done.end["ran"] == ["first", "middle", "last"]
    assert any("not signed" in text for text in notes(done))
    done = builder.run("remote", "withdraw", "last")
    assert done.code == 0, done.err
    late = team.machine("late", OLIVEBUILD_TRUSTED_KEYS=key, **place)
    done = late.build()
    assert done.end["ran"] == ["last"]
    assert any("is withdrawn" in text for text in notes(done)), notes(done)
