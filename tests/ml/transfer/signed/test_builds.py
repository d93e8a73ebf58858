"""Builds in a remote cache: read once, written once, bounded, and whose count."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import StoreError
from olivebuild.ml.transfer.remote import Remote
from olivebuild.ml.transfer.signed import builds as module
from olivebuild.ml.transfer.signed.builds import Builds
from olivebuild.ml.transfer.signing import Signer, Trust, keygen

HISTORY = "a" * 32
TIME = "2026-11-20T10:00:0{}Z"


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote((tmp_path / "remote").as_uri())


def test_builds_are_written_and_read_once(remote: Remote, tmp_path: Path) -> None:
    builds = Builds(remote, Trust(), None, HISTORY)
    assert builds.read(()) == ({}, [])
    names = builds.write([(TIME.format(1), "one"), (TIME.format(2), "two")])
    assert builds.write([(TIME.format(1), "one")]) == names[:1]
    texts, faults = builds.read(())
    assert (texts, faults) == (dict(zip(names, ["one", "two"], strict=True)), [])
    assert builds.read(names) == ({}, [])
    assert Builds(remote, Trust(), None, "b" * 32).read(()) == ({}, [])
    # Names of others are read as text alone, and what is no name of a build is passed over.
    folder = tmp_path / "remote/v1/history" / HISTORY
    (folder / "x").write_text("no build")
    (folder / names[0]).write_bytes((folder / names[1]).read_bytes())
    texts, faults = builds.read(())
    assert (list(texts), faults) == ([names[1]], ["it lies under another name"])
    with pytest.raises(StoreError, match="no time of a build"):
        builds.write([("../../x", "three")])


def test_the_newest_are_read_as_far_as_there_is_room(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = Builds(remote, Trust(), None, HISTORY)
    builds.write([(TIME.format(n), f"{n}" * 1000) for n in range(5)])
    monkeypatch.setattr(module, "MOST_TOTAL", 3000)
    assert [text[0] for text in builds.read(())[0].values()] == ["4", "3"]


def test_where_keys_are_trusted_others_do_not_count(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEBUILD_CONFIG", str(tmp_path))
    _, key = keygen()
    signer = Signer.of_configuration()
    trust = Trust(trusted=frozenset([key]))
    Builds(remote, trust, signer, HISTORY).write([(TIME.format(1), "ours")])
    Builds(remote, trust, None, HISTORY).write([(TIME.format(2), "theirs")])
    texts, faults = Builds(remote, trust, None, HISTORY).read(())
    assert list(texts.values()) == ["ours"]
    assert faults == ["it is not signed"]
