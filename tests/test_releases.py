"""What is released: a source archive, and a wheel that is used where no checkout is."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import olivebuild
from tests.support.releases import ROOT, build, sdist, unpacked
from tests.support.require import require


def files_of(recipe: str) -> set[str]:
    """Return the files of a recipe that git has."""
    done = subprocess.check_output(["git", "ls-files", recipe], cwd=ROOT / "recipes", text=True)
    return set(done.splitlines())


def test_a_wheel_of_the_source_archive_has_all_of_it(tmp_path: Path) -> None:
    """It has no extension: there is no compiler."""
    sources = unpacked(sdist(tmp_path), tmp_path / "sources")
    wheel = build("wheel", sources, tmp_path / "dist", CC="false")
    if sys.platform == "linux":
        # The stable interface: later Pythons take it, too.
        assert re.fullmatch(
            rf"olivebuild-{olivebuild.__version__}-cp311-abi3-linux_\w+.whl", wheel.name
        )
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    require("git", shutil.which("git") and (ROOT / ".git").exists(), "needs git")
    assert {f"olivebuild/examples/{name}" for name in files_of("tone")} <= names
    git = subprocess.check_output(["git", "ls-files", "olivebuild"], cwd=ROOT, text=True)
    assert set(git.splitlines()) <= names
    outside = {
        "PYTHONPATH": str(tmp_path / "installed"),
        "OLIVEBUILD_CACHE": str(tmp_path / "cache"),
    }
    for arguments in (["init", "--example", "tone", "-C", "tone"], ["-C", "tone", "plan"]):
        command = [sys.executable, "-m", "olivebuild", *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | outside,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "stale    tone" in done.stdout


def test_the_changelog_has_a_section_for_this_version() -> None:
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if "## " in line)
    assert olivebuild.__version__ in first


def test_what_goes_says_when() -> None:
    """Each DeprecationWarning of ours names the release that drops what it warns of."""
    texts = (path.read_text("utf-8") for path in sorted((ROOT / "olivebuild").rglob("*.py")))
    warned = [
        ast.unparse(node)
        for text in texts
        if "DeprecationWarning" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and "DeprecationWarning" in ast.unparse(node)
    ]
    assert warned
    assert [call for call in warned if not re.search(r"\d+\.\d+", call)] == []
