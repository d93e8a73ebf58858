"""From a release to a decision: wheel and source archive in an empty environment, without a
checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.releases import ROOT, build, sdist, unpacked
from tests.support.require import require

pytestmark = [pytest.mark.scenario, pytest.mark.slow, pytest.mark.timeout(3600)]
QUESTION = (
    "Is the tone of this text joy, sad, fear or surprise?\nI burst into tears at the station."
)


def test_the_quick_start_of_an_installed_release(tmp_path: Path) -> None:
    """The whole quick start, and an app that asks what it exports."""
    pip = [sys.executable, "-m", "pip"]
    got = subprocess.run(
        [*pip, "download", "-q", "--no-deps", "-d", str(tmp_path / "probe"), "click"],
        capture_output=True,
        check=False,
    )
    require("index", got.returncode == 0, "needs an index of packages")
    archive = sdist(tmp_path)
    wheel = build("wheel", unpacked(archive, tmp_path / "sources"), tmp_path / "dist")
    programs = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")

    def run(*command: object) -> str:
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "OLIVEBUILD_", "VIRTUAL_ENV"))
        }
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=variables | {"OLIVEBUILD_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode in (0, 3), done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", tmp_path / "env")
    install = [programs / "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    run(*install, f"{wheel}[build]")
    home = run(programs / "python", "-c", "import olivebuild; print(olivebuild.__file__)")
    assert Path(home.strip()).is_relative_to(tmp_path / "env")
    olivebuild = programs / "olivebuild"
    run(olivebuild, "init", "--example", "tone", "-C", "tone")
    end = json.loads(run(olivebuild, "-C", "tone", "build", "--json").splitlines()[-1])
    assert {"adapter", "merged", "onnx-int4", "bench"} <= {*end["ran"]}
    assert len(end["gates"]) == 3
    run(olivebuild, "-C", "tone", "export", "--force", "onnx-int4", tmp_path / "shipped")
    answer = run(programs / "python", ROOT / "examples/apps/python/ask.py", "shipped", QUESTION)
    assert answer.strip() in {"joy", "sad", "fear", "surprise"}
    # The source archive in the wheel's place: what was built is what it would build.
    run(*install, "--force-reinstall", "--no-deps", archive)
    end = json.loads(run(olivebuild, "-C", "tone", "build", "--json").splitlines()[-1])
    assert end["ran"] == []
