"""The recipe file: located, read, and checked when a part of it is asked for.

The meaning of its words is in recipe/validate.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.fs.small_files import read_text

if TYPE_CHECKING:
    from olivebuild.api.step import Target
    from olivebuild.recipe.document import Document
    from olivebuild.recipe.executors import Machine
    from olivebuild.recipe.validate import Cache, Checked

FILE_NAME = "olivebuild.yaml"
IMPORTED = (".olivebuild", "imported")
"""Where `olivebuild run` keeps the recipes that it made of other tools' configurations.

Such a recipe belongs to the folder above the two: its paths start there.
"""


class Recipe:
    """A recipe's text, and the `TARGET.FIELD=VALUE` overrides of this call.

    Relative paths start at `folder`. Checking imports much and takes long, and a graph from the
    cache does without: so it waits for the first property that needs it.
    """

    def __init__(self, file: Path, text: str, settings: Iterable[str] = ()) -> None:
        self.file = file
        self.text = text
        self.settings = tuple(settings)

    @cached_property
    def _checked(self) -> Checked:
        from olivebuild.recipe.validate import check

        return check(self.text, self.file.name, self.settings)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def folder(self) -> Path:
        folder = self.file.parent
        return folder.parents[1] if folder.parts[-2:] == IMPORTED else folder

    @property
    def document(self) -> Document:
        return self._checked.document

    @property
    def targets(self) -> dict[str, Target]:
        return self._checked.targets

    @property
    def default(self) -> list[str]:
        return self._checked.default

    @property
    def matrices(self) -> dict[str, tuple[str, ...]]:
        return self._checked.matrices

    @property
    def limits(self) -> dict[str, float]:
        return self._checked.limits

    @property
    def executors(self) -> dict[str, Machine]:
        return self._checked.executors

    @property
    def strict(self) -> bool:
        return self._checked.strict

    @property
    def cache(self) -> Cache:
        return self._checked.cache

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the recipe for the overrides of this call."""
        return self._checked.notes if self.settings else ()

    def where(self, target: str, path: Iterable[str | int] = ()) -> Where:
        return self.document.where(("targets", target, *path))


def find(folder: Path, name: str | None) -> Path:
    """Return the recipe file. Raises RecipeError when there is none."""
    file = (folder / (name or FILE_NAME)).absolute()
    if not file.is_file():
        hint = "`olivebuild init` writes one; -C DIR or -f FILE names another place"
        raise RecipeError("there is no recipe here", where=Where(str(name or FILE_NAME)), hint=hint)
    return file


def read(file: Path, settings: Iterable[str] = ()) -> Recipe:
    """Return a recipe that is not checked yet. Raises RecipeError when it can't be read."""
    try:
        return Recipe(file, read_text(file), settings)
    except UnicodeDecodeError as e:
        raise RecipeError(
            f"not UTF-8 text: byte {e.start}", where=Where(file.name), hint="save the file as UTF-8"
        ) from None
    except ValueError as e:
        raise RecipeError(
            f"can't be read: {e}", where=Where(file.name), hint="is it a recipe?"
        ) from None
    except OSError as e:
        raise RecipeError(
            f"can't be read: {e.strerror}",
            where=Where(file.name),
            hint="-f FILE names another recipe",
        ) from None


def load(file: Path, settings: Iterable[str] = ()) -> Recipe:
    """Return a recipe that was checked. Raises RecipeError."""
    recipe = read(file, settings)
    assert recipe.targets
    return recipe
