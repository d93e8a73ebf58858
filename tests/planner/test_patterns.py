"""What a path or pattern of a recipe names, and whether it still names that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from olivebuild.planner import patterns
from olivebuild.snapshot import stat_of


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "sub/b.txt", "sub/sub/c.txt"]),
        ("sub/*.txt", ["sub/b.txt"]),
        ("s*/[ab].txt", ["sub/b.txt"]),
        ("sub/../?.txt", ["sub/../a.txt"]),
        ("[x].txt", ["[x].txt"]),
        ("sub", ["sub"]),
        ("*.csv", []),
        ("nowhere/*.txt", []),
        ("missing.txt", []),
    ],
)
def test_what_a_pattern_matches_in_a_folder_of_any_name(
    tmp_path: Path, pattern: str, found: list[str]
) -> None:
    folder = tmp_path / "runs [1]*"
    (folder / "sub/sub").mkdir(parents=True)
    for name in ("a.txt", "sub/b.txt", "sub/sub/c.txt", "[x].txt"):
        (folder / name).touch()
    every = [p.relative_to(folder).as_posix() for p in patterns.matching(folder, pattern)]
    assert [name for name in every if name != "[x].txt" or pattern == "[x].txt"] == found


def test_a_literal_name_is_a_file_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.txt").touch()
    assert patterns.matching(tmp_path, "folder", literal=True) == []
    assert patterns.matching(tmp_path, "*.txt", literal=True) == []
    assert patterns.matching(tmp_path, "a.txt", literal=True) == [tmp_path / "a.txt"]


@pytest.mark.parametrize(
    ("pattern", "split"), [("a/*/b", ("a", "*/b")), ("*.txt", (".", "*.txt")), ("a/b", ("a/b", ""))]
)
def test_where_a_pattern_starts(pattern: str, split: tuple[str, str]) -> None:
    assert patterns.split(pattern) == (Path(split[0]), split[1])


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        ("*.txt", "y.txt"),
        ("*.txt", "../lost.txt"),
        ("*/*.txt", "new/y.txt"),
        ("*/*.txt", "../lost/y.txt"),
        ("*/*/*.txt", "../other/sub/y.txt"),
        ("*/*/*.txt", "../other/new/y.txt"),
        ("*/link/*/*.txt", "../other/sub/y.txt"),
        ("**/*.txt", "sub/new/y.txt"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="links")
def test_where_another_match_may_come_is_known(tmp_path: Path, pattern: str, new: str) -> None:
    """Also behind links, and where a link leads nowhere yet."""
    folder = tmp_path / "data"
    for path in (folder / "sub", tmp_path / "other/sub"):
        path.mkdir(parents=True)
        (path / "a.txt").touch()
    for link in ("link", "sub/link"):
        (folder / link).symlink_to(tmp_path / "other")
    (folder / "lost").symlink_to("../lost")
    (folder / "lost.txt").symlink_to("../lost.txt")
    there = [tmp_path, *tmp_path.rglob("*")]
    for path in (p for p in there if p.is_dir()):
        # New names change the times; no clock need tick.
        os.utime(path, (1, 1))
    before, known = (
        patterns.matching(folder, pattern),
        {p: stat_of(str(p)) for p in (folder, *patterns.where_more_may_come(folder, pattern))},
    )
    (folder / new).parent.mkdir(exist_ok=True)
    (folder / new).touch()
    assert patterns.matching(folder, pattern) != before
    assert any(stat_of(str(p)) != stat for p, stat in known.items())
