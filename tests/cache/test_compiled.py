"""Kernels that trainings keep: in a folder of the user's own, and nowhere that others reach."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from olivebuild.cache import compiled
from olivebuild.cache.gc import DAY, Limits, collect
from olivebuild.cache.store import Store


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLIVEBUILD_COMPILED", str(tmp_path / "own/compiled"))
    return tmp_path / "own/compiled"


def test_a_folder_is_made_for_its_user_alone(root: Path) -> None:
    before = os.umask(0)
    try:
        folder = compiled.take("key")
    finally:
        os.umask(before)
    assert folder == root / "key"
    assert compiled.take("key") == folder
    if os.name == "posix":
        assert {one.stat().st_mode & 0o777 for one in (root, folder)} == {0o700}


def test_the_platforms_folder_is_the_users_whatever_cache_the_store_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLIVEBUILD_COMPILED")
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(tmp_path / "shared"))
    assert tmp_path not in compiled.root().parents


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o702])
def test_a_folder_that_others_can_reach_is_refused(root: Path, mode: int) -> None:
    root.mkdir(parents=True)
    root.chmod(mode)
    with pytest.raises(compiled.Untrusted, match="is open to other users"):
        compiled.take("key")
    root.chmod(0o700)
    compiled.take("key").chmod(mode)
    with pytest.raises(compiled.Untrusted, match="key is open to other users"):
        compiled.take("key")


def test_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.parent.mkdir()
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(compiled.Untrusted, match="is not a folder"):
        compiled.take("key")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_nothing_is_kept_in_a_repository(root: Path, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(compiled.Untrusted, match="lies in a repository"):
        compiled.take("key")
    assert not root.exists()


def test_a_sweep_takes_what_was_not_used_for_long(root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    for name, days in (("old", 40), ("new", 1)):
        folder = compiled.take(name)
        (folder / "kernel").write_bytes(bytes(100))
        os.utime(folder, (time.time() - days * DAY,) * 2)
    assert collect(store, Limits(30 * DAY), delete=False).files == {root / "old": 100}
    assert sorted(path.name for path in compiled.folders()) == ["new", "old"]
    collect(store, Limits(30 * DAY), delete=True)
    assert sorted(path.name for path in compiled.folders()) == ["new"]
    # It is used again.
    os.utime(root / "new", (time.time() - 40 * DAY,) * 2)
    compiled.take("new")
    assert collect(store, Limits(30 * DAY), delete=True).files == {}
