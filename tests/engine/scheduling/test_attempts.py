"""A node that does not become right is not made for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.core.errors import StepError
from olivebuild.engine.scheduling.attempts import MAX_ATTEMPTS, Attempts
from tests.support.sites import Site


def test_the_last_attempt_is_followed_by_an_error(tmp_path: Path) -> None:
    states = Site(tmp_path).plan("b").states
    attempts = Attempts()
    for _ in range(MAX_ATTEMPTS):
        attempts.count(states["a"])
    attempts.count(states["b"])
    with pytest.raises(StepError, match=f"a was made {MAX_ATTEMPTS} times, and .* is still not"):
        attempts.count(states["a"])
