"""Environments elsewhere, made by the Python that is there; here it is this machine's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from olivebuild.core.errors import BuildError, InputError
from olivebuild.executors.connections.opening import Here
from olivebuild.executors.environments import content
from olivebuild.executors.environments.prepare import Wanted, prepare

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other sides are posix")

WAY = Here("box (ssh)", sys.executable)


def made(root: Path, wanted: Wanted) -> Path:
    """Put an environment in place that counts as whole."""
    folder = root / "environments" / wanted.digest(sys.executable)
    folder.mkdir(parents=True)
    (folder / "complete").touch()
    return folder


def test_an_environment_that_is_there_is_used_and_the_package_sent_once(tmp_path: Path) -> None:
    wanted = Wanted("venv", ["a==1"])
    folder = made(tmp_path, wanted)
    said: list[str] = []
    first = prepare(WAY, sys.executable, str(tmp_path), wanted, said.append)
    assert first.python == str(folder / "bin/python")
    code = Path(first.code)
    assert (code / "olivebuild/__init__.py").is_file()
    times = code.stat().st_ino
    assert prepare(WAY, sys.executable, str(tmp_path), wanted, said.append) == first
    assert code.stat().st_ino == times
    assert [path.name for path in (tmp_path / "environments/code").iterdir()] == [code.name]
    assert code.name == content.stamp()
    assert said == []


def test_what_a_login_shell_prints_is_no_answer(tmp_path: Path) -> None:
    class Chatty(Here):
        def command(self, words: Sequence[str]) -> list[str]:
            return ["sh", "-c", 'echo Welcome; exec "$@"', "sh", *words]

    wanted = Wanted("venv", [])
    folder = made(tmp_path, wanted)
    found = prepare(Chatty("box", sys.executable), sys.executable, str(tmp_path), wanted)
    assert found.python == str(folder / "bin/python")


def problem(
    root: Path, wanted: Wanted, python: str = sys.executable, **variables: str
) -> BuildError:
    with pytest.raises(InputError) as caught:
        prepare(Here("box (ssh)", python), python, str(root), wanted, print, environment=variables)
    return caught.value


def test_what_the_other_side_lacks_is_told(tmp_path: Path) -> None:
    no_conda = problem(tmp_path, Wanted("conda", [], "name: x"), PATH=str(tmp_path))
    assert no_conda.fact == "box (ssh): there is no conda"
    assert "micromamba" in no_conda.hint
    file = tmp_path / "file"
    file.touch()
    assert "box (ssh): " in problem(file, Wanted("venv", [])).fact
    ended = tmp_path / "ended"
    ended.write_text("#!/bin/sh\necho 'No module named olivebuild' >&2; exit 3\n")
    ended.chmod(0o755)
    assert "has no olivebuild" in problem(tmp_path, Wanted("venv", []), str(ended)).fact


def test_an_answer_that_makes_no_sense_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 'olivebuild-environment [1]'\n")
    program.chmod(0o755)
    assert "no answer that can be read" in problem(tmp_path, Wanted("venv", []), str(program)).fact


@pytest.mark.slow
def test_an_environment_is_made_and_one_that_can_not_be_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    done = prepare(WAY, sys.executable, str(tmp_path), Wanted("venv", []), said.append)
    shown = subprocess.run(
        [done.python, "-P", "-c", "import olivebuild, sys; print(olivebuild.__file__, sys.prefix)"],
        env={"PYTHONPATH": done.code},
        capture_output=True,
        text=True,
        check=True,
    )
    file, prefix = shown.stdout.split()
    assert file.startswith(done.code)
    assert Path(done.python).is_relative_to(prefix)
    assert said[-1].startswith("box (ssh): made the environment ")
    wanted = Wanted("venv", ["--no-index", "no-such-package==9"])
    error = problem(tmp_path, wanted)
    assert "pip could not install what is asked for: ERROR: " in error.fact
    # Not taken for whole by the next one.
    assert "pip could not install" in problem(tmp_path, wanted).fact
