"""JSON from outside as records: nothing is converted, and nothing is passed over."""

from __future__ import annotations

import pytest
from msgspec import Struct

from olivebuild.core.values.strict_json import decode


class Inner(Struct, frozen=True):
    size: int
    name: str = ""


class Outer(Struct, frozen=True):
    inner: tuple[Inner, ...]
    note: str | None = None


def test_a_record_is_what_the_text_says() -> None:
    text = b'{"inner": [{"size": 1}, {"size": 2, "name": "b"}]}'
    assert decode(text, Outer) == Outer((Inner(1), Inner(2, "b")))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", '{"inner": [{"size": "1"}]}', '{"inner": [{"size": 1.5}]}',
        '{"inner": [{}]}', '{"inner": [{"size": 1, "extra": 2}]}', '{"inner": [], "extra": null}',
        '{"inner": [{"size": 1}]} x', '{"inner": ' + "[" * 100_000,
    ],
)  # fmt: skip
def test_anything_else_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(text, Outer)


def test_unknown_fields_pass_where_that_is_asked_for() -> None:
    assert decode('{"inner": [], "extra": 1}', Outer, strict=False) == Outer(())
    with pytest.raises(ValueError, match="an unknown field 'extra'"):
        decode('{"inner": [], "extra": 1}', Outer)
