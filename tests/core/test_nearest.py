"""The recipe above a folder: where the search ends, and whose recipe is taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.core.fs.nearest import nearest as nearest_of

FILE_NAME = "olivebuild.yaml"


def nearest(folder: Path) -> Path | None:
    return nearest_of(folder, FILE_NAME, ".olivebuild")


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in a project with a recipe, in a home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "project/data/raw"
    folder.mkdir(parents=True)
    (tmp_path / "project" / FILE_NAME).write_text("targets: {}\n")
    return folder


def test_the_nearest_recipe_above_counts(deep: Path) -> None:
    assert nearest(deep) == deep.parents[1]
    (deep.parent / FILE_NAME).write_text("targets: {}\n")
    assert nearest(deep) == deep.parent
    # The folder itself was looked at before.
    assert nearest(deep.parent) == deep.parents[1]


def test_a_folder_of_the_name_is_no_recipe(deep: Path) -> None:
    (deep.parent / FILE_NAME).mkdir()
    assert nearest(deep) == deep.parents[1]


def make_repository(folder: Path) -> None:
    (folder / ".git").mkdir()


def make_worktree(folder: Path) -> None:
    (folder / ".git").write_text("gitdir: /elsewhere\n")


@pytest.mark.parametrize("make", [make_repository, make_worktree])
def test_the_search_ends_at_the_root_of_a_repository(
    deep: Path, make: Callable[[Path], None]
) -> None:
    make(deep)
    assert nearest(deep) is None
    # A root that has the recipe itself is no obstacle.
    (deep / ".git").rename(deep.parents[1] / ".git")
    assert nearest(deep) == deep.parents[1]


def test_the_search_ends_at_home(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(deep.parent))
    assert nearest(deep) is None
    monkeypatch.setenv("HOME", str(deep.parents[1]))
    assert nearest(deep) == deep.parents[1]


def test_the_search_ends_at_a_border_of_file_systems(
    deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def stat(path: Path) -> os.stat_result:
        result = real(path)
        below = Path(path) == deep.parent
        return os.stat_result((*result[:2], result.st_dev + below, *result[3:10]))

    monkeypatch.setattr("olivebuild.core.fs.nearest.os.stat", stat)
    assert nearest(deep.parent) is None


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone gives files away"
)


@needs_root
@pytest.mark.parametrize("taken", [FILE_NAME, ".", ".olivebuild"])
def test_a_recipe_that_another_user_owns_is_refused(
    deep: Path, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = deep.parents[1]
    (project / ".olivebuild").mkdir()
    os.chown(project / taken, 54321, -1)
    with pytest.raises(RecipeError) as caught:
        nearest(deep)
    assert f"user 54321 owns {project / taken}" in str(caught.value)
    assert caught.value.hint.startswith(f"-C {project} ")
    monkeypatch.setenv("SUDO_UID", "54321")
    assert nearest(deep) == project
