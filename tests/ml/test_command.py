"""A command's program: its words, its inputs as copies, its numbers, and what is said when it
fails.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.core.errors import InputError, StepError
from olivebuild.ml.kinds.command import run
from olivebuild.steps.parts.command_line import named_inputs, named_outputs


def test_names_are_given_or_come_from_the_paths() -> None:
    assert named_outputs({"x": "sub/x.txt"}) == {"x": "sub/x.txt"}
    assert named_outputs(["sub/Words.txt", "b"]) == {"words": "sub/Words.txt", "b": "b"}
    assert named_inputs(["a.x", "b"]) == {"a.x": "a.x", "b": "b"}
    assert named_inputs({"m": "a.x"}) == {"m": "a.x"}


def job_of(folder: Path, code: str, **fields: Any) -> Job:
    """A job of a Python program that gets its output's path, and then its input's."""
    (folder / "out").mkdir()
    (folder / "given.txt").write_text("given")
    (folder / "code.py").write_text(code)
    line = {"run": "python code.py {outputs.o} {inputs.a}", "outputs": {"o": "sub/o.json"}}
    given = str(folder / "given.txt")
    inputs = {"a": ActionInput(given, given, "command", "a")}
    out = str(folder / "out")
    values = line | {"inputs": ["a"]} | fields
    return Job(
        Action("t", "t", "command", "0" * 32, values, inputs, {}, str(folder), out), io.StringIO()
    )


def test_a_program_gets_copies_and_gives_files_and_numbers(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "open(sys.argv[2], 'a').write(' and changed')\n"
        "json.dump({'size': len(open(sys.argv[2]).read()), 'rate': 0.5}, open(sys.argv[1], 'w'))\n"
    )
    job = job_of(tmp_path, code, metrics="sub/o.json")
    run(job)
    assert job.result.metrics == {"size": len("given and changed"), "rate": 0.5}
    assert json.loads((tmp_path / "out/sub/o.json").read_text()) == job.result.metrics
    assert (tmp_path / "given.txt").read_text() == "given"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("[1]", "is not a JSON object of numbers"),
        ('{"a": "1"}', "is not a JSON object of numbers"),
        ("{", "can't be read"),
        ('{"a": 1e999}', "'a' is inf, which is no metric"),
        ('{"a": 1' + "0" * 400 + "}", "which is no metric"),
    ],
)
def test_numbers_that_are_none_fail_the_step(tmp_path: Path, text: str, fact: str) -> None:
    code = f"import sys\nopen(sys.argv[1], 'w').write({text!r})\n"
    with pytest.raises(StepError, match=fact):
        run(job_of(tmp_path, code, metrics="sub/o.json"))


def test_a_program_that_fails_is_told_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        run(job_of(tmp_path, "raise SystemExit(7)\n"))
    assert caught.value.fact.startswith("t: the command ")
    assert "7" in caught.value.fact
    assert "`olivebuild log t`" in caught.value.hint


def test_a_program_that_is_not_there_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-program can't be run"):
        run(job_of(tmp_path, "", run="no-such-program x"))


@pytest.mark.skipif(sys.platform == "win32", reason="the shell is another one there")
def test_a_shell_is_used_where_that_is_asked_for(tmp_path: Path) -> None:
    run(job_of(tmp_path, "", run="echo 1 > {out}/o && cp {out}/o {out}/p", shell=True))
    assert (tmp_path / "out/p").read_text() == "1\n"
