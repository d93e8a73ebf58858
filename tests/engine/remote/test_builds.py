"""The history of a recipe on several machines, through a remote cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.remote_records import Signature, envelope, opened
from olivebuild.core import hashing
from tests.conftest import Place
from tests.engine.remote.test_cache import Team, notes


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def builds(place: Place) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(place.run("history", "--json").out)["builds"]
    return rows


def join(place: Place, other: Place) -> None:
    """Give a machine the other's lock file, as a checkout has it."""
    shutil.copyfile(other.folder / "olivebuild.lock", place.folder / "olivebuild.lock")


def objects(team: Team) -> list[Path]:
    return sorted(p for p in team.remote.glob("v1/history/*/*") if p.is_file())


def test_builds_of_all_machines_are_in_the_history(team: Team) -> None:
    one, other = team.machine("one"), team.machine("other")
    one.build()
    join(other, one)
    other.build()
    (first, second) = builds(other)
    assert [first["number"], second["number"]] == [1, 2]
    assert first["host"]
    assert first["folder"] == f"{first['host']}:one"
    assert (second["host"], second["folder"]) == ("", str(other.folder))
    assert first["time"] == builds(one)[0]["time"]
    assert [run["key"] for run in first["made"]] == [run["key"] for run in second["made"]]
    # A build that had nothing to do asks nobody; `pull` does.
    one.build()
    assert len(builds(one)) == 1
    assert json.loads(one.run("remote", "pull", "--json").out)["builds"] == 1
    assert [b["folder"] for b in builds(one)] == [str(one.folder), f"{first['host']}:other"]
    assert json.loads(one.run("remote", "pull", "--json").out)["builds"] == 0
    assert len(objects(team)) == 2
    # Each is there once, however often it is brought there.
    other.run("remote", "push")
    assert len(objects(team)) == 2


@pytest.mark.slow
def test_builds_that_nobody_has_signed_are_not_taken(team: Team) -> None:
    one = team.machine("one")
    key = one.run("remote", "keygen").out.split()[-1]
    one.build()
    stranger = team.machine("stranger")
    join(stranger, one)
    stranger.build()
    other = team.machine("other", OLIVEBUILD_TRUSTED_KEYS=key)
    join(other, one)
    done = other.build()
    assert any("is not taken: it is not signed" in text for text in notes(done)), notes(done)
    assert [b["folder"].rpartition(":")[2] for b in builds(other)] == ["one", str(other.folder)]


@pytest.mark.slow
@pytest.mark.parametrize("text", [b"", b"x" * 2_000_000, b'{"goals": "?"}', b"[" * 100_000])
def test_what_is_no_build_is_told_and_left(team: Team, text: bytes) -> None:
    one, other = team.machine("one"), team.machine("other")
    one.build()
    join(other, one)
    (path,) = objects(team)
    name = f"{path.name[:17]}{hashing.of_bytes(text)}"
    path.unlink()
    (path.parent / name).write_bytes(envelope(text, Signature()) if text else b"")
    (path.parent / "..nothing").write_text("no build")
    done = other.build()
    assert done.code == 0, done.err
    assert any("is not taken" in note for note in notes(done)), notes(done)
    assert [b["folder"] for b in builds(other)] == [str(other.folder)]


@pytest.mark.slow
def test_a_build_that_was_altered_is_not_taken(team: Team) -> None:
    one, other = team.machine("one"), team.machine("other")
    one.build("first")
    join(other, one)
    (path,) = objects(team)
    body, signature = opened(path.read_bytes())
    path.write_bytes(envelope(body.replace(b'"fresh":0', b'"fresh":9'), signature))
    done = other.build("first")
    assert any("lies under another name" in note for note in notes(done)), notes(done)
