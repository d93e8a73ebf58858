"""How much of a data file is taken into memory."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.data import limits
from olivebuild.data.limits import (
    FREE_BYTES,
    LARGEST_RATIO,
    lines_of,
    share_of_packed,
    share_of_parquet,
)


def test_a_file_may_become_a_multiple_of_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(bytes(100))
    share = share_of_packed(tmp_path / "a.gz", "data/a.gz")
    share.take(FREE_BYTES)
    share.take(100 * LARGEST_RATIO)
    with pytest.raises(InputError) as caught:
        share.take(1)
    assert caught.value.fact == "the file unpacks to more than 200 times its size"
    assert str(caught.value.where) == "data/a.gz"
    with pytest.raises(InputError, match="the rows of the file take more than 200 times"):
        share_of_parquet(tmp_path / "a.gz", "a").take(FREE_BYTES + 100 * LARGEST_RATIO + 1)


def test_a_long_line_is_told_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LONGEST_LINE", 10)
    lines = lines_of(io.StringIO("0123456789"[:9] + "\nshort\n0123456789x\n"), "rows.jsonl")
    assert [next(lines), next(lines)] == ["012345678\n", "short\n"]
    with pytest.raises(InputError, match="a line of more than") as caught:
        next(lines)
    assert str(caught.value.where) == "rows.jsonl:3"
