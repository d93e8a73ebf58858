"""Errors of other libraries in one line, whatever they say; and that nobody takes that line in a
way that fails on an empty one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import olivebuild
from olivebuild.core.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  why\nmore"), "why"),
        (RuntimeError(), "RuntimeError"),
        (KeyError(""), "''"),
        (OSError("  \n "), "OSError"),
        (ValueError("x" * 900), "x" * 300),
        (
            OSError("Couldn't make it from one of: \n(1) this,\n(2) that"),
            "Couldn't make it from one of: (1) this,",
        ),
    ],
)
def test_the_first_line_tells_something(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_no_other_place_takes_the_first_line_of_an_error() -> None:
    package = Path(olivebuild.__file__).parent
    found = [
        f"{path.relative_to(package)}:{number}"
        for path in package.rglob("*.py")
        for number, text in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(r"str\((e|error)\)[^#]*splitlines\(\)[^#]*\[0\]", text)
    ]
    assert found == []
