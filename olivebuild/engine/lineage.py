"""Which builds are compared: the one before, the last that shipped, the last two that measured.

Checkouts of a recipe share its history. A build is compared with earlier ones of its own folder;
where that has none, as after a move, with those of any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from olivebuild.core.errors import RecipeError
from olivebuild.engine.history import Entry

BENCHMARK = "benchmark"


def of_folder(entries: Sequence[Entry], folder: str) -> list[Entry]:
    """Return the builds of a folder; all builds if it has none."""
    return [e for e in entries if e.folder == folder] or list(entries)


def previous(entries: Sequence[Entry], entry: Entry, target: str) -> Entry | None:
    """Return the last build before `entry` that measured a target.

    None if there is none, or it measured the same result.
    """
    earlier = [e for e in entries if e.number < entry.number and target in e.measured]
    before = next(reversed(of_folder(earlier, entry.folder)), None)
    same = (
        before
        and target in entry.measured
        and before.measured[target].key == entry.measured[target].key
    )
    return None if same else before


def last_shipped(entries: Sequence[Entry], entry: Entry, targets: Collection[str]) -> Entry | None:
    """Return the last build before `entry` that met all its gates.

    Only builds that judged gates of all `targets` count.
    """
    earlier = [e for e in entries if e.number < entry.number and _shipped(e, targets)]
    return next(reversed(of_folder(earlier, entry.folder)), None)


def _shipped(entry: Entry, targets: Collection[str]) -> bool:
    outcomes = {gate.outcome for gate in entry.gates}
    judged = {gate.target for gate in entry.gates}
    return outcomes == {"met"} and judged >= set(targets) and not entry.failed


def measuring(entries: Iterable[Entry]) -> list[Entry]:
    """Return the builds that left other results of benchmarks than the one before them."""
    keys: dict[str, str] = {}
    builds = []
    for entry in entries:
        results = {t: m.key for t, m in entry.measured.items() if m.kind == BENCHMARK}
        if any(keys.get(target) != key for target, key in results.items()):
            builds.append(entry)
        keys |= results
    return builds


def last_two_measured(entries: Sequence[Entry], folder: str) -> tuple[Entry, Entry]:
    """Return the last two builds that measured something new. Raises RecipeError."""
    builds = measuring(of_folder(entries, folder))
    if len(builds) < 2:
        # The first one here is compared with the last one elsewhere.
        builds = measuring(entries)
    if len(builds) < 2:
        one = f"only {builds[0].name}" if builds else "no build"
        raise RecipeError(
            f"there is nothing to compare: {one} of {len(entries)} recorded has measured a "
            "benchmark",
            where="command line",
            hint="`olivebuild compare last~1 last` compares two builds, whatever they measured",
        )
    return builds[-2], builds[-1]
