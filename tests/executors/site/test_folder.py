"""The folder of a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import StoreError
from olivebuild.executors.site.folder import JobFolder, new_bytes, site_root
from olivebuild.executors.site.portable import PortableOutcome

KEY = "0123456789abcdef" * 2


@pytest.mark.parametrize("key", ["", "../../etc", KEY.upper(), KEY + "/x", KEY + "\n", "x" * 32])
def test_no_other_folder_can_be_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        JobFolder(tmp_path, key)


def test_what_is_known_of_a_job(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, KEY)
    assert (folder.ident, folder.attempt, folder.read_outcome()) == ("", "", None)
    folder.make()
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.ident, folder.attempt = "12 345", "first"
    folder.mark("stopped")
    folder.write_outcome(PortableOutcome(key=KEY, seconds=1.5))
    again = JobFolder(tmp_path, KEY)
    assert (again.ident, again.attempt, again.is_stopped) == ("12 345", "first", True)
    assert again.read_outcome() == PortableOutcome(key=KEY, seconds=1.5)
    again.begin()
    assert (again.ident, again.is_stopped, again.is_to_begin_again) == ("", False, False)
    assert again.read_outcome() is None
    again.delete()
    assert not folder.path.exists()


def test_an_outcome_of_another_key_is_none(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, KEY)
    folder.make()
    folder.write_outcome(PortableOutcome(key="f" * 32))
    assert folder.read_outcome() is None
    (folder.path / "outcome.json").write_text("{")
    assert folder.read_outcome() is None


def test_only_one_holds_a_lock(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, KEY)
    lock = folder.lock("job")
    assert lock
    assert folder.lock("job") is None
    other = folder.lock("agent")
    assert other
    other.close()
    lock.close()


def test_news_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    assert new_bytes(file, 0, 10) == b""
    file.write_bytes(b"0123456789")
    assert new_bytes(file, 4, 3) == b"456"
    assert new_bytes(file, 10, 3) == b""


def test_the_root_of_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert site_root("runs") == tmp_path / "runs"
    assert site_root("~/runs") == tmp_path / "runs"
    assert site_root("/data/runs") == Path("/data/runs")
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(tmp_path / "cache"))
    assert site_root("") == tmp_path / "cache"
    with pytest.raises(StoreError, match="can't hold a site"):
        site_root("/")
