"""Child processes: where they import from, and that they end with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from olivebuild.core.processes import python

ECHO = """
from olivebuild.core.processes import end_with_parent
end_with_parent(lambda line: print(line.decode(), flush=True))
"""


def test_a_child_imports_nothing_from_the_folder_it_starts_in(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger ran')\n")
    done = subprocess.run(python("-c", "import json"), cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    exposed = subprocess.run(
        python("-c", "import json", isolated=False), cwd=tmp_path, capture_output=True
    )
    assert b"a stranger ran" in exposed.stderr


def test_it_is_the_interpreter_that_runs_olivebuild() -> None:
    assert python("-m", "x")[0] == sys.executable
    assert python("-m", "x")[-2:] == ["-m", "x"]


@pytest.mark.skipif(os.name != "posix", reason="sessions are posix")
def test_a_child_takes_lines_and_ends_with_its_parent() -> None:
    with subprocess.Popen(
        python("-c", ECHO),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"one\ntw")
        child.stdin.flush()
        assert child.stdout.readline() == b"one\n"
        child.stdin.write(b"o\nnever ended")
        child.stdin.close()
        assert child.stdout.read() == b"two\n"
        # It leads a session of its own, and kills all of it.
        assert child.wait(30) < 0
