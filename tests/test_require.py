"""What is missing skips a test, and fails it where it is required."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import require


def test_a_test_without_what_it_needs_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(require, "REQUIRED", frozenset({"gcc"}))
    with pytest.raises(pytest.skip.Exception, match="no git here"):
        require.require("git", None, "no git here")
    require.require("git", "/usr/bin/git", "no git here")


def test_a_test_without_what_is_required_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(require, "REQUIRED", frozenset({"git"}))
    with pytest.raises(pytest.fail.Exception, match="OLIVEBUILD_REQUIRE names git"):
        require.require("git", None, "no git here")


def test_a_name_that_no_test_asks_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(require, "REQUIRED", frozenset({"git", "gti"}))
    with pytest.raises(pytest.UsageError, match=r"names gti: it can name [a-z].*, azurite, "):
        require.check_names()


def test_what_tests_are_told_by_the_environment_reaches_them() -> None:
    """Unlike what olivebuild itself reads, which is taken away."""
    told = {"OLIVEBUILD_SEED": "7", "OLIVEBUILD_AUDIT": "1"}
    code = f"import os, tests.conftest; print(*map(os.environ.get, {[*told]}))"
    out = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | told, check=True, capture_output=True
    ).stdout
    assert out.split() == [b"7", b"None"]
