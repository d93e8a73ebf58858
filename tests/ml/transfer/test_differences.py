"""Results that differ between machines: why, and told once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.cache.traces import Trace
from olivebuild.ml.transfer.differences import Differences

KEY = "ab" * 16


def trace(output: str, numerics: dict[str, str] | None) -> Trace:
    provenance: dict[str, Any] = {"numerics": numerics} if numerics else {}
    return Trace(KEY, "adapter", (), {"": output}, provenance=provenance)


@pytest.mark.parametrize(
    ("then", "now", "cause"),
    [
        ({"threads": "8"}, {"threads": "2"}, "under other numerics: threads 8, here 2"),
        ({"threads": "8"}, {"threads": "8"}, "under the same numerics: its step is not determ"),
        (None, {"threads": "8"}, "its step is not deterministic"),
    ],
)
def test_the_cause_is_told_once(
    tmp_path: Path, then: dict[str, str] | None, now: dict[str, str], cause: str
) -> None:
    there, ours = trace("a" * 32, then), trace("b" * 32, now)
    one = Differences(tmp_path, "file:///remote")
    assert one.told(ours, trace("b" * 32, then)) == ""
    assert cause in one.told(ours, there)
    assert one.told(ours, there) == ""
    # Nor by the next process; but of another bucket, or another result, it is.
    assert Differences(tmp_path, "file:///remote").told(ours, there) == ""
    assert Differences(tmp_path, "file:///another").told(ours, there)
    assert Differences(tmp_path, "file:///remote").told(trace("c" * 32, now), there)
