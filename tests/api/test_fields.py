"""Fields of kinds: unknown keys are errors, and nothing is converted."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from olivebuild.api.fields import Fields


class Sample(Fields):
    count: int = 1
    rate: float = 0.5


def test_values_of_the_right_types_are_taken() -> None:
    fields = Sample.model_validate({"count": 3, "rate": 2})
    assert (fields.count, fields.rate) == (3, 2.0)


@pytest.mark.parametrize(
    "values",
    [{"cuont": 3}, {"count": "3"}, {"count": 3.0}, {"count": True}, {"rate": "1"},
     {"rate": float("nan")}, {"rate": float("inf")}],
)  # fmt: skip
def test_anything_else_is_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate(values)


def test_fields_stay_as_they_are() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Sample(), "count", 2)  # noqa: B010 - as code that ignores the types would
