"""The files beside a new recipe, and what is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.recipe.scaffold.files import SCHEMA_NAME, check_free, write
from olivebuild.recipe.schema import recipe_schema


def test_the_schema_and_what_git_ignores_stand_beside_the_recipe(tmp_path: Path) -> None:
    written = write(tmp_path / "olivebuild.yaml", "targets: {}\n")
    assert written == ["olivebuild.yaml", SCHEMA_NAME, ".gitignore"]
    assert json.loads((tmp_path / SCHEMA_NAME).read_text()) == recipe_schema()
    assert (tmp_path / ".gitignore").read_text() == "build/\n.olivebuild/\n"
    assert write(tmp_path / "olivebuild.yaml", "targets: {}\n") == ["olivebuild.yaml"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("*.pyc", "*.pyc\nbuild/\n.olivebuild/\n"),
        ("/build\n", "/build\n.olivebuild/\n"),
        ("build/\n.olivebuild\n", "build/\n.olivebuild\n"),
    ],
)
def test_lines_of_gitignore_stay(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / ".gitignore").write_text(before)
    write(tmp_path / "olivebuild.yaml", "targets: {}\n")
    assert (tmp_path / ".gitignore").read_text() == after


def test_a_recipe_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    with pytest.raises(RecipeError, match="there is a recipe already"):
        check_free(tmp_path, "a.yaml", force=False)
    assert check_free(tmp_path, "a.yaml", force=True) == tmp_path / "a.yaml"
    with pytest.raises(RecipeError, match="there is no folder"):
        check_free(tmp_path / "none", None, force=False)
