"""The guide to the Python API, run as it stands, and what it says of notebooks."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import olivebuild as ob
from tests.conftest import Place

GUIDE = Path(__file__).parents[2] / "docs/guides/python.md"


@pytest.mark.scenario
def test_the_guide_is_right(copied: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied.folder)
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(copied.cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ran = doctest.testfile(str(GUIDE), module_relative=False, encoding="utf-8")
    assert ran.attempted > 10
    assert not ran.failed


@pytest.mark.scenario
def test_a_benchmark_draws_itself(copied: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEBUILD_CACHE", str(copied.cache))
    project = ob.open(copied.folder)
    page = project.report()._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "sandbox" in page
    assert "&lt;!doctype html&gt;" in page.lower()
