"""The example recipes that come with the package, for `init --example`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from olivebuild.core.errors import RecipeError
from olivebuild.core.fs.small_files import read_json
from olivebuild.recipe.file import FILE_NAME
from olivebuild.recipe.lockfile import FILE_NAME as LOCK_NAME
from olivebuild.recipe.scaffold.files import write_ignored

PACKAGE = Path(__file__).parents[2]
FOLDERS = (PACKAGE / "examples", PACKAGE.parent / "recipes")
"""Where an installed package has them, and a checkout."""
EXAMPLES = ("tone", "extract")
LEFT_OUT = ("build", ".olivebuild", "__pycache__")


def copy(name: str, folder: Path) -> list[str]:
    """Copy an example into a folder, and return the names of its files.

    Raises RecipeError for a name that is none, and where a file of it is there already.
    """
    source = next((at / name for at in FOLDERS if (at / name / FILE_NAME).is_file()), None)
    if name not in EXAMPLES or source is None:
        hint = f"there are {', '.join(EXAMPLES)}"
        raise RecipeError(f"there is no example {name!r}", where="--example", hint=hint)
    files = [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file() and not {*path.relative_to(source).parts} & {*LEFT_OUT}
    ]
    names = [path.relative_to(source) for path in files]
    for relative in names:
        if (folder / relative).exists():
            raise RecipeError(
                "this file is there already",
                where=str(folder / relative),
                hint="name another folder with -C",
            )
    for path, relative in zip(files, names, strict=True):
        place = folder / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        if relative.name == LOCK_NAME:
            place.write_text(_without_history(path), "utf-8")
        else:
            shutil.copyfile(path, place)
    return [*(relative.as_posix() for relative in names), *write_ignored(folder)]


def _without_history(lock: Path) -> str:
    """Return a lock file without the name of a history, which is each project's own.

    Nor does it hold libraries: those that are installed count.
    """
    kept = {k: v for k, v in read_json(lock).items() if k != "history"}
    return json.dumps(kept | {"libraries": {}}, indent=2, sort_keys=True) + "\n"
