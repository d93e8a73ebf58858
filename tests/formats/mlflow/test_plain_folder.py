"""Folders in which files of several folders lie side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.formats.mlflow import plain_folder

Make = Callable[[Path, Mapping[str, str], Path], Path]
FILES = {"config.json": "model/config.json", "sub/x.jinja": "tokenizer/x.jinja"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "mlflow"
    for path in FILES.values():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(path)
    return folder


@pytest.mark.parametrize("make", [plain_folder.of_links, plain_folder.of_files])
def test_it_shows_the_files(root: Path, tmp_path: Path, make: Make) -> None:
    folder = make(root, FILES, tmp_path / "views")
    assert {name: (folder / name).read_text() for name in FILES} == FILES
    before = folder.stat().st_ctime_ns
    assert make(root, FILES, tmp_path / "views") == folder
    assert folder.stat().st_ctime_ns == before
    assert [p.name for p in (tmp_path / "views").iterdir()] == [folder.name]


def test_a_link_shows_what_is_there_now(root: Path, tmp_path: Path) -> None:
    folder = plain_folder.of_links(root, FILES, tmp_path / "views")
    (root / "new").write_text("new")
    (root / "new").rename(root / "model/config.json")
    assert (folder / "config.json").read_text() == "new"


def test_files_of_ours_are_no_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("of a blob")
    (root / "model/config.json").unlink()
    (root / "model/config.json").symlink_to(tmp_path / "blob")
    folder = plain_folder.of_files(root, FILES, tmp_path / "views")
    assert not (folder / "config.json").is_symlink()
    assert os.path.samefile(folder / "config.json", tmp_path / "blob")


def test_a_file_that_was_mended_is_taken_anew(root: Path, tmp_path: Path) -> None:
    folder = plain_folder.of_files(root, FILES, tmp_path / "views")
    (root / "new").write_text("x" * len(FILES["config.json"]))
    (root / "new").rename(root / "model/config.json")
    assert plain_folder.of_files(root, FILES, tmp_path / "views") == folder
    assert os.path.samefile(folder / "config.json", root / "model/config.json")


@pytest.mark.parametrize("make", [plain_folder.of_links, plain_folder.of_files])
def test_a_folder_that_was_changed_is_made_anew(root: Path, tmp_path: Path, make: Make) -> None:
    folder = make(root, FILES, tmp_path / "views")
    (folder / "config.json").unlink()
    (folder / "more").write_text("")
    assert make(root, FILES, tmp_path / "views") == folder
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "sub"]
    assert (folder / "config.json").read_text() == FILES["config.json"]


def test_other_files_make_another_folder(root: Path, tmp_path: Path) -> None:
    first = plain_folder.of_links(root, FILES, tmp_path / "views")
    second = plain_folder.of_links(root, {"a": "model/config.json"}, tmp_path / "views")
    assert first != second
    assert sorted(p.name for p in second.iterdir()) == ["a"]


def test_no_folder_can_be_made(root: Path, tmp_path: Path) -> None:
    (tmp_path / "views").write_text("a file")
    with pytest.raises(InputError, match="can't be linked to"):
        plain_folder.of_links(root, FILES, tmp_path / "views")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("private", ["", "model", "tokenizer"])
def test_a_private_folder_stays_private(root: Path, tmp_path: Path, private: str) -> None:
    assert plain_folder.of_links(root, FILES, tmp_path / "views").stat().st_mode & 0o777 == 0o755
    (root / private).chmod(0o700)
    assert plain_folder.of_links(root, FILES, tmp_path / "views").stat().st_mode & 0o777 == 0o700
