"""Replacements of a library's private parts: checked first, put back, and failures kept apart."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core import text
from olivebuild.ml.onnx.patches import BuilderChanged, Patch, applied

SOURCE = """
def convert(tensor, bits=4):
    return tensor * bits

def fail():
    raise TypeError("of the library's own")

def call(function):
    return function()
"""


@pytest.fixture
def library(tmp_path: Path) -> Any:
    """A module of another package."""
    module = types.ModuleType("library")
    exec(compile(SOURCE, str(tmp_path / "library.py"), "exec"), module.__dict__)
    return module


def test_a_replacement_is_put_back_whatever_happens(library: Any) -> None:
    before = library.convert
    patch = Patch(owner=library, name="convert", replacement=len, signature="(tensor, bits=4)")
    with applied([patch]):
        assert library.convert is len
    assert library.convert is before
    with pytest.raises(KeyboardInterrupt), applied([patch]):
        raise KeyboardInterrupt
    assert library.convert is before


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"name": "gone"}, "the model builder has no gone"),
        (
            {"name": "gone", "signature": "()"},
            "the model builder's gone is not the one that is known: nothing",
        ),
        (
            {"name": "convert", "signature": "(tensor)", "library": "torch"},
            "torch's convert is not the one that is known: (tensor, bits=4)",
        ),
    ],
)
def test_nothing_is_replaced_where_one_part_is_another(
    library: Any, patch: dict[str, str], message: str
) -> None:
    before = library.call
    first = Patch(owner=library, name="call", replacement=len)
    with (
        pytest.raises(BuilderChanged) as caught,
        applied([first, Patch(owner=library, replacement=len, **patch)]),
    ):
        pytest.fail("not reached")
    assert str(caught.value) == message
    assert library.call is before


def test_a_failure_of_the_library_is_a_change_of_it(library: Any) -> None:
    with pytest.raises(BuilderChanged, match=r": TypeError: of the library's own$"), applied([]):
        library.fail()


def test_a_failure_of_this_package_stays_what_it_is(library: Any) -> None:
    """Also where the library calls our code, as it does a replacement."""
    with pytest.raises(TypeError), applied([]):
        library.call(lambda: text.size(None))  # type: ignore[arg-type]
