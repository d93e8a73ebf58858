"""What a path or pattern of a recipe names, and whether it still names that."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild import scan


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
def test_what_a_pattern_matches_in_a_folder_of_any_name(tmp_path: Path, pattern: str, found: list[str]) -> None:
    folder = tmp_path / "runs [1]*"
    (folder / "sub/sub").mkdir(parents=True)
    for name in ("a.txt", "sub/b.txt", "sub/sub/c.txt", "[x].txt"):
        (folder / name).touch()
    every = [p.relative_to(folder).as_posix() for p in scan.matching(folder, pattern)]
    assert [name for name in every if name != "[x].txt" or pattern == "[x].txt"] == found


def test_a_literal_name_is_a_file_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.txt").touch()
    assert scan.matching(tmp_path, "folder", literal=True) == []
    assert scan.matching(tmp_path, "*.txt", literal=True) == []
    assert scan.matching(tmp_path, "a.txt", literal=True) == [tmp_path / "a.txt"]


@pytest.mark.parametrize(("pattern", "split"), [("a/*/b", ("a", "*/b")), ("*.txt", (".", "*.txt")), ("a/b", ("a/b", ""))])
def test_where_a_pattern_starts(pattern: str, split: tuple[str, str]) -> None:
    assert scan.split(pattern) == (Path(split[0]), split[1])
