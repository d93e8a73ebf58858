"""Entry points of other packages: kinds, executors and trackers that are not built in.

Looking for them reads the metadata of all installed packages, so that it waits until a recipe or
the command line names something that is not built in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import RecipeError, Where, first_line
from olivebuild.core.text import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def entry_points(*, group: str, name: str = "") -> list[EntryPoint]:
    """Return the entry points of a group, or those of one name."""
    # Takes long to import, and what is built in needs it not.
    from importlib import metadata

    return [e for e in metadata.entry_points(group=group) if name in ("", e.name)]


def load(*, group: str, name: str, what: str, builtin: tuple[str, ...], where: Where | str) -> Any:
    """Return the object that an entry point names; `what` it is, `builtin` are other names.

    Raises RecipeError where no package has it, and where its package can't be imported.
    """
    entries = entry_points(group=group)
    for entry in entries:
        if entry.name == name:
            return _loaded(entry, what, where)
    names = sorted({*builtin, *(entry.name for entry in entries)})
    hint = did_you_mean(name, names)
    raise RecipeError(f"there is no {what} {name!r}", where=where, hint=hint)


def _loaded(entry: EntryPoint, what: str, where: Where | str) -> Any:
    package = entry.dist.name if entry.dist else entry.module
    try:
        return entry.load()
    except Exception as e:
        # The package is another's, and may raise anything while it is imported.
        fact = f"the {what} {entry.name!r} of {package} can't be loaded: {first_line(e)}"
        raise RecipeError(fact, where=where, hint=f"repair the package {package}") from e
