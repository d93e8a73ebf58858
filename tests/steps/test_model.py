"""What the kind `model` declares of each sort of source."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from olivebuild.steps.model import STEP, ModelFields

LIBRARIES = ("gguf", "torch", "transformers")


def fields_of(source: str, **more: Any) -> ModelFields:
    return ModelFields.model_validate({"source": source} | more)


@pytest.mark.parametrize(
    ("source", "referenced_folder", "files", "libraries", "parameters"),
    [
        ("models/base", "models/base", [], (), {"dtype": "float16"}),
        ("gguf:m.gguf", None, ["m.gguf"], LIBRARIES, {"dtype": "float16"}),
        ("pypi:a==1!m.gguf", None, [], LIBRARIES, {"dtype": "float16"}),
        ("hf:own/tiny", None, [], (), {"trust_remote_code": False}),
    ],
)
def test_what_a_source_needs(
    source: str,
    referenced_folder: str | None,
    files: list[str],
    libraries: tuple[str, ...],
    parameters: dict[str, object],
) -> None:
    fields = fields_of(source)
    assert STEP.check(fields) is None
    assert STEP.referenced_folder(fields) == referenced_folder
    assert [file.pattern for file in STEP.files(fields)] == files
    assert STEP.libraries(fields) == libraries
    assert STEP.parameters(fields) == parameters


@pytest.mark.parametrize(
    ("source", "hint"),
    [("m.gguf", "write gguf:m.gguf"), ("pypi:a==1!m.bin", "name it after the `!`")],
)
def test_a_file_of_another_form_is_a_problem(source: str, hint: str) -> None:
    problem = STEP.check(fields_of(source))
    assert problem
    assert problem.hint == hint


@pytest.mark.parametrize("date", ["28.11.2026", "2026-13-01", "today", ""])
def test_a_date_is_one_or_freeze(date: str) -> None:
    assert fields_of("a", template_date="2026-11-28").template_date == "2026-11-28"
    assert fields_of("a", template_date="freeze").template_date == "freeze"
    with pytest.raises(ValidationError, match="is not a date"):
        fields_of("a", template_date=date)
