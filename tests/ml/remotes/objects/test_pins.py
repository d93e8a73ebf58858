"""Pins of objects: what changes them, and that they are read back."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from olivebuild.ml.models.remotes.objects.listing import File
from olivebuild.ml.models.remotes.objects.pins import file_of, text_of, version_of


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """One object and its pin."""

    file: File
    text: str


ONE = Pinned(file=File("k/a.csv", "a.csv", 3, "e1"), text="size 3, etag e1")
VERSIONED = Pinned(
    file=File("k/a.csv", "a.csv", 0, "e1", "2026-01"), text="size 0, etag e1, version 2026-01"
)
UNTAGGED = Pinned(file=File("a.csv", "a.csv", 3, ""), text="size 3, etag ")


@pytest.mark.parametrize("pinned", [ONE, VERSIONED, UNTAGGED])
def test_the_pin_of_one_object_is_read_back(pinned: Pinned) -> None:
    assert text_of([pinned.file], pinned.file.path) == pinned.text
    assert file_of(pinned.text, pinned.file.path) == pinned.file
    assert version_of(pinned.text) == pinned.file.version


def test_a_folder_of_one_file_is_a_folder() -> None:
    text = text_of([ONE.file], "k/")
    assert re.fullmatch(r"1 files, 3 bytes, listing [0-9a-f]{64}", text)
    assert version_of(text) == ""


def test_whatever_changes_a_listing_changes_its_pin() -> None:
    files = [File("k/a", "a", 1, "x"), File("k/b", "b", 2, "y")]
    pins = {
        text_of(files, "k/"),
        text_of(files[::-1], "k/"),
        text_of(files[:1], "k/"),
        text_of([files[0]._replace(etag="z"), files[1]], "k/"),
        text_of([files[0]._replace(name="c"), files[1]], "k/"),
        text_of([files[0]._replace(size=2), files[1]._replace(size=1)], "k/"),
    }
    assert len(pins) == 6


def test_a_folder_may_move_without_another_pin() -> None:
    assert text_of([File("k/a", "a", 1, "x")], "k/") == text_of([File("l/a", "a", 1, "x")], "l/")
