"""A change of any of our own files is noticed, wherever in the package it lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import olivebuild
from olivebuild.core import code_version


def stamp(root: Path) -> str:
    return code_version.stamp_of(str(root), code_version.folders_below(str(root)))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, and rooms within rooms."""
    root = tmp_path / "olivebuild"
    shutil.copytree(Path(olivebuild.__file__).parent, root)
    for name in ("ml/onnx/parts/trace.py", "ui/report/page.py", "cli/main.py", "ml/ui/page.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


def test_each_file_but_those_that_only_show_changes_the_stamp(package: Path) -> None:
    before = stamp(package)
    counted, apart = 0, 0
    for file in sorted(package.rglob("*.py")):
        shows = file.relative_to(package).parts[0] in ("cli", "report", "ui")
        times = file.stat()
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000_000))
        assert (stamp(package) == before) is shows, file
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        apart, counted = apart + shows, counted + (not shows)
    assert stamp(package) == before
    assert counted > 100
    assert apart > 2


def test_files_that_come_go_and_move_change_the_stamp(package: Path) -> None:
    stamps = [stamp(package)]
    file = package / "ml/onnx/parts/trace.py"
    (package / "ml/onnx/new").mkdir()
    assert stamp(package) == stamps[0]
    file.rename(package / "ml/onnx/new/trace.py")
    stamps.append(stamp(package))
    (package / "ml/onnx/new/other.py").write_text("")
    stamps.append(stamp(package))
    shutil.rmtree(package / "ml")
    stamps.append(stamp(package))
    assert len(set(stamps)) == len(stamps)


def test_one_process_looks_again_when_a_folder_has_changed(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_version, "ROOT", str(package))
    monkeypatch.setattr(code_version, "_folders", [])
    monkeypatch.setattr(code_version, "_stamps", {})
    stamps = [code_version.code()]
    assert code_version.code() == stamps[0] == stamp(package)
    for change in (
        lambda: (package / "ml/onnx/parts/more.py").write_text(""),
        lambda: (package / "ml/extra").mkdir(),
        lambda: (package / "ml/extra/rows.py").write_text(""),
        lambda: shutil.rmtree(package / "ml"),
    ):
        change()
        assert code_version.code() == stamp(package)
        stamps.append(code_version.code())
    assert len(set(stamps)) == len(stamps) - 1
