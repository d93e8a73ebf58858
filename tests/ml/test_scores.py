"""Score functions of the user's own, and answers that should be JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core.errors import InputError, StepError
from olivebuild.metrics.scoring import Fields
from olivebuild.ml.benchmark.scores import Schema, flatten, load_score, parse


@pytest.fixture
def job() -> Job:
    action = Action("t", "t", "benchmark", "0" * 32, {}, {}, {}, "/none", "/none")
    return Job(action, io.StringIO())


def write(folder: Path, text: str) -> Path:
    (folder / "scores.py").write_text(text)
    return folder / "scores.py"


def test_a_score_gets_the_text_and_a_copy_of_the_row(tmp_path: Path, job: Job) -> None:
    file = write(tmp_path, "def f(text, row):\n    return len(text) * int(row.pop('n'))\n")
    score, row = load_score(job, file, "f"), {"n": "2"}
    assert [score("abc", row), score("", row)] == [6.0, 0.0]
    assert row == {"n": "2"}


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("import nothing_of_that_name", "scores.py can't be run: ModuleNotFoundError"),
        ("def g(text, row): ...", "scores.py has no function f"),
        ("f = 3", "scores.py has no function f"),
    ],
)
def test_a_file_without_the_function_is_an_error(
    tmp_path: Path, job: Job, text: str, fact: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_score(job, write(tmp_path, text), "f")
    assert caught.value.fact.startswith(fact)


@pytest.mark.parametrize("value", ["1 / 0", "'1'", "float('nan')", "None"])
def test_what_is_no_score_fails_the_step(tmp_path: Path, job: Job, value: str) -> None:
    score = load_score(job, write(tmp_path, f"def f(text, row):\n    return {value}\n"), "f")
    with pytest.raises(StepError, match=r"f (failed on|gave)"):
        score("abc", {})


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "[" * 100_000])
def test_what_only_python_reads_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_leaves_have_paths() -> None:
    value = {"a": {"b": 1, "c": {}}, "d": [2, {"e": None}]}
    assert flatten(value) == {"a.b": "1", "a.c": "{}", "d": '[2, {"e": null}]'}
    assert flatten("x") == {"": '"x"'}


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def test_an_answer_is_compared_field_by_field(tmp_path: Path, job: Job) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    schema = Schema(job, tmp_path / "s.json")
    wanted = '{"n": 1, "of": {"x": "a"}}'
    assert schema.judge('{"of": {"x": "a"}, "n": 1}', wanted) == Fields(
        True, True, {"n": True, "of.x": True}
    )
    assert schema.judge('{"n": "1"}', wanted) == Fields(False, False, {"n": False, "of.x": False})
    assert schema.judge("no json", wanted) == Fields(False, False, {"n": False, "of.x": False})
    with pytest.raises(InputError, match="the right answer is not JSON"):
        schema.judge("{}", "no json")


@pytest.mark.parametrize("text", ["{", '{"type": "nothing"}', "[1]"])
def test_what_is_no_schema_is_an_error(tmp_path: Path, job: Job, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=r"s.json is not a JSON schema"):
        Schema(job, tmp_path / "s.json")


def test_nothing_that_a_schema_refers_to_is_fetched(tmp_path: Path, job: Job) -> None:
    (tmp_path / "s.json").write_text('{"$ref": "http://127.0.0.1:9/x.json"}')
    with pytest.raises(InputError, match="refers to what is not in it"):
        Schema(job, tmp_path / "s.json").judge("{}", "{}")
