"""The header of a turn, as templates write it."""

from __future__ import annotations

import pytest

from olivebuild.ml.data.template_habits import Refused, header_of


@pytest.mark.parametrize(
    ("between", "header"),
    [
        ("<|assistant|>\n", "<|assistant|>\n"),
        ("[/INST] ", "[/INST]"),
        (" ", ""),
        ("", ""),
    ],
)
def test_a_space_belongs_to_the_text(between: str, header: str) -> None:
    assert header_of(between) == header


def test_a_refusal_says_why() -> None:
    assert "no system message" in str(Refused("no system message", "leave it out"))
