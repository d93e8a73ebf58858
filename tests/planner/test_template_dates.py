"""What is said of models whose chat templates read the clock."""

from __future__ import annotations

import pytest

from olivebuild.planner.template_dates import Dated


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ("field", "it is rendered with 2026-11-28, its template_date"),
        ("lock", "it is rendered with 2026-11-28, which olivebuild.lock has"),
        ("first build", "the date of the first build, 2026-11-28 if that is today"),
    ],
)
def test_a_date_is_told_with_its_origin(origin: str, says: str) -> None:
    told = str(Dated("base", "2026-11-28", origin, False))
    assert told.startswith("the chat template of base reads the clock: ")
    assert told.endswith(says)
    frozen = str(Dated("base", "2026-11-28", origin, True))
    assert frozen == f"{told}; what is merged has it fixed"
