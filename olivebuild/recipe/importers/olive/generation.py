"""Generation of an Olive workflow: the releases that take its words.

What a key means, and what holds where it is left out, differs between releases. Words that only
some releases know tell which they were. Files that mix words of several are read as the release
that takes the most of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from olivebuild.core.errors import RecipeError, Where
from olivebuild.recipe.importers.olive.tell_tales import JULY, MAIN, Version, signs
from olivebuild.recipe.importers.positions import Document, Path

RELEASES: tuple[Version, ...] = (
    (0, 1, 0),
    (0, 2, 1),
    (0, 3, 3),
    (0, 4, 0),
    (0, 5, 0),
    (0, 5, 1),
    (0, 5, 2),
    (0, 6, 0),
    (0, 6, 1),
    (0, 6, 2),
    JULY,
    (0, 7, 0),
    (0, 7, 1),
    (0, 8, 0),
    (0, 9, 0),
    (0, 9, 2),
    (0, 9, 3),
    (0, 10, 1),
    (0, 11, 0),
    (0, 12, 1),
    (0, 13, 0),
    MAIN,
)


@dataclass(frozen=True, kw_only=True)
class TellTale:
    """A word of the file that only the releases `first` to `last` take as it stands."""

    path: Path
    line: int
    what: str
    first: Version
    last: Version


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The release that a file is read as, and why."""

    version: Version
    first: Version
    last: Version
    """The releases that take all of its words, or as many as `version` does."""
    chosen: str
    """`tell-tales`, `--olive-version`, or `nothing`: nothing in the file told."""
    tell_tales: tuple[TellTale, ...] = ()
    against: tuple[TellTale, ...] = ()
    """Words that `version` does not take as they stand."""

    def since(self, major: int, minor: int, patch: int = 0) -> bool:
        """Return whether the release is that one or a later one."""
        return self.version >= (major, minor, patch)

    @property
    def name(self) -> str:
        return name_of(self.version)


def name_of(version: Version) -> str:
    if version == MAIN:
        return "main"
    if version == JULY:
        return "main of July 2024"
    return ".".join(map(str, version))


def version_of(text: str) -> Version:
    """Return the release that `--olive-version` names, or the last one of ours not after it.

    Raises RecipeError.
    """
    if text == "main":
        return MAIN
    parts = text.removeprefix("v").split(".")
    if not 2 <= len(parts) <= 4 or not all(p.isdigit() and len(p) < 6 for p in parts):
        raise RecipeError(
            f"{text!r} is no release of Olive",
            where=Where("--olive-version"),
            hint="write one such as 0.6.2, or main",
        )
    numbers = [int(p) for p in parts]
    wanted = (numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else 99)
    earlier = [v for v in RELEASES if v <= wanted and (v != JULY or wanted == JULY)]
    return max(earlier, default=RELEASES[0])


def recognise(document: Document, wanted: str | None = None) -> Generation:
    """Return the generation of a workflow; `wanted` is the value of `--olive-version`."""
    tales = tuple(
        TellTale(path=path, line=document.line(path), what=what, first=first, last=last)
        for path, what, first, last in signs(document)
    )
    taken = {v: sum(t.first <= v <= t.last for t in tales) for v in RELEASES}
    most = max(taken.values())
    best = [v for v in RELEASES if taken[v] == most]
    if wanted is not None:
        version, chosen = version_of(wanted), "--olive-version"
    else:
        # The last release rather than the branch that goes on after it.
        version = best[-2] if best[-1] == MAIN and len(best) > 1 else best[-1]
        chosen = "tell-tales" if tales else "nothing"
    return Generation(
        version=version,
        first=best[0],
        last=best[-1],
        chosen=chosen,
        tell_tales=tales,
        against=tuple(t for t in tales if not t.first <= version <= t.last),
    )
