"""The connection by a program that starts the words after it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from olivebuild.core.errors import InputError
from olivebuild.executors.connections.words import WordsConnection

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other sides are posix")

POD = WordsConnection("pods (ray)", ["env", "IN_POD=yes"], sys.executable, {"A": "b c"})


def test_the_program_starts_the_words_with_the_variables_of_the_recipe() -> None:
    program = "import os, sys; print(os.environ['IN_POD'], os.environ['A'], sys.argv[1:])"
    command = POD.command([sys.executable, "-c", program, "a b"])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "yes b c ['a b']\n"
    assert POD.argv(["--root", "x"])[-3:] == ["olivebuild.executors.site.agent", "--root", "x"]
    assert POD.variables == {}


def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match="there is no kubectl-of-none here"):
        POD._replace(words=["kubectl-of-none"]).argv([])


@pytest.mark.parametrize(
    ("code", "errors", "fact"),
    [
        (1, "x: No module named olivebuild", "has no olivebuild"),
        (127, "sh: not found", "there is no "),
        (1, 'Error from server: pods "head" not found', "`env IN_POD=yes` ended with exit code 1"),
    ],
)
def test_ends_are_explained(code: int, errors: str, fact: str) -> None:
    error = POD.problem(code, errors)
    assert error.fact.startswith("pods (ray): ")
    assert fact in error.fact
    assert error.hint
    assert not POD.is_cut(code)
    assert POD.is_cut(-9)
