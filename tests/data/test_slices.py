"""Slices of rows are those of the `datasets` library."""

from __future__ import annotations

import pytest
from datasets import ReadInstruction
from hypothesis import given
from hypothesis import strategies as st

from olivebuild.core.errors import InvalidValue
from olivebuild.data.slices import Slice

BOUND = st.none() | st.integers(-120, 120)
SHARE = st.none() | st.integers(-100, 100)


def written(start: int | None, stop: int | None, unit: str) -> str:
    return ":".join("" if b is None else f"{b}{unit}" for b in (start, stop))


@given(
    st.integers(0, 100),
    st.tuples(BOUND, BOUND, st.just("")) | st.tuples(SHARE, SHARE, st.just("%")),
)
def test_a_slice_takes_the_rows_that_datasets_takes(
    count: int, bounds: tuple[int | None, int | None, str]
) -> None:
    text = written(*bounds)
    [theirs] = ReadInstruction.from_spec(f"train[{text}]").to_absolute({"train": count})
    ours = Slice.parse(text).of(count)
    rows = list(range(count))
    assert rows[ours] == rows[theirs.from_ : theirs.to]


@pytest.mark.parametrize("text", ["", "70%", "%:", "1:2:3", ":1.5", "10:20%", ":120%", " :1"])
def test_another_text_is_no_slice(text: str) -> None:
    with pytest.raises(InvalidValue):
        Slice.parse(text)
