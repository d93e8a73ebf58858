"""What a Python is, as its partner sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from msgspec import structs

import olivebuild
from olivebuild.executors.site import about


def stamp_of(folder: Path) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "from olivebuild.executors.site import about; print(about.code())",
        ],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_stamp_is_of_contents(tmp_path: Path) -> None:
    package = tmp_path / "olivebuild"
    source = Path(olivebuild.__file__).parent
    shutil.copytree(
        source, package, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copyfile
    )
    assert stamp_of(tmp_path) == about.code()
    with open(package / "cli/main.py", "a") as f:
        f.write("# what is shown\n")
    assert stamp_of(tmp_path) == about.code()
    with open(package / "core/hashing.py", "a") as f:
        f.write("# what is made\n")
    assert stamp_of(tmp_path) != about.code()


def test_what_differs_is_said_in_words() -> None:
    here = about.here(["msgspec", "no-such-library"])
    right = {"msgspec": here.libraries["msgspec"]}
    assert about.check("box", here, code=about.code(), libraries=right) is None
    other = about.check("box", here, code="another", libraries=right)
    assert other
    assert "box has another olivebuild" in other.fact
    old = structs.replace(here, protocol=0)
    assert about.check("box", old, code=about.code(), libraries={})
    missing = about.check("box", here, code=about.code(), libraries={"no-such-library": "1.0"})
    assert missing
    assert "no-such-library is 1.0 here and not installed there" in missing.fact
    strict = about.check(
        "box", here, code=about.code(), libraries={}, numerics={**here.numerics, "threads": "777"}
    )
    assert strict
    assert "threads is 777 here" in strict.fact
