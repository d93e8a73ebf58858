"""Sizes and spans of time as people write them."""

from __future__ import annotations

import pytest

from olivebuild.cache.gc import DAY
from olivebuild.core.text import size_of, span_of


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50GB", 50 * 10**9),
        ("1.5 kb", 1500),
        ("2MiB", 2 << 20),
        ("0B", 0),
        ("7", None),
        ("GB", None),
        ("1e9B", None),
        ("-1GB", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="is no size"):
            size_of(text)
    else:
        assert size_of(text) == size


def test_spans() -> None:
    assert [span_of(text) for text in ("30d", "12h", "2w", "5m", "0d")] == [
        30 * DAY,
        DAY // 2,
        14 * DAY,
        300,
        0,
    ]
    with pytest.raises(ValueError, match="'30' is no span of time"):
        span_of("30")
