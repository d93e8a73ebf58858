"""The files that `olivebuild init` writes: the recipe, the schema for editors, and .gitignore."""

from __future__ import annotations

import json
from pathlib import Path

from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import write_atomically
from olivebuild.recipe.file import FILE_NAME

SCHEMA_NAME = "olivebuild.recipe.schema.json"
IGNORED = ("build/", ".olivebuild/")


def check_free(folder: Path, name: str | None, *, force: bool) -> Path:
    """Return the recipe's file. Raises RecipeError where one is there and may not be replaced."""
    file = folder / (name or FILE_NAME)
    if file.exists() and not force:
        raise RecipeError(
            "there is a recipe already", where=Where(file.name), hint="--force overwrites it"
        )
    if not file.parent.is_dir():
        raise RecipeError(f"there is no folder {file.parent}", hint="make it first")
    return file


def write(file: Path, recipe: str) -> list[str]:
    """Write the recipe last, after what stands beside it; return the names of what was written."""
    from olivebuild.recipe.schema import recipe_schema

    folder, written = file.parent, []
    schema = (json.dumps(recipe_schema(), indent=2) + "\n").encode()
    if _content(folder / SCHEMA_NAME) != schema:
        write_atomically(folder / SCHEMA_NAME, schema)
        written.append(SCHEMA_NAME)
    written += write_ignored(folder)
    write_atomically(file, recipe.encode())
    return [file.name, *written]


def write_ignored(folder: Path) -> list[str]:
    """Have git ignore what builds write; return the name of the file if that was to be written."""
    # Where it is a link, what it leads to is written.
    ignore = (folder / ".gitignore").resolve()
    if lines := _missing(ignore):
        write_atomically(ignore, lines)
        return [".gitignore"]
    return []


def _missing(file: Path) -> bytes:
    """Return .gitignore with what is to be ignored; empty where it says so already."""
    content = _content(file) or b""
    lines = {line.strip().strip(b"/") for line in content.splitlines()}
    new = [name for name in IGNORED if name.strip("/").encode() not in lines]
    if not new:
        return b""
    end = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + end + "".join(f"{name}\n" for name in new).encode()


def _content(file: Path) -> bytes | None:
    try:
        return opening.read(file)
    except OSError:
        return None
