"""gc --remote: what nobody has used for long in a remote cache."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivebuild.cli.caches.remote import address_of

if TYPE_CHECKING:
    from olivebuild.cache.remote_sweeps import Limits, RemoteSweep
    from olivebuild.cache.store import Store

Names = Mapping[str, tuple[str, str]]
"""Key -> (target, recipe)."""


def sweep_remote(store: Store, limits: Limits, *, as_json: bool) -> None:
    """Sweep the remote cache that the environment names, and say what goes.

    Raises RecipeError where none is named, StoreError.
    """
    from olivebuild.engine.remote.sweep import sweep

    found = sweep(address_of(None), limits)
    names = _names(store)
    if as_json:
        click.echo(json.dumps(_as_json(found, limits, names), indent=2))
    else:
        click.echo("\n".join(_as_lines(found, limits, names)))


def _names(store: Store) -> Names:
    """Return the names that the recipes of this machine know results by."""
    from olivebuild.cache import gc_roots
    from olivebuild.engine.history import targets_made

    return {
        key: (target, one.recipe)
        for one in gc_roots.all_registered(store)
        for key, target in targets_made(store.root, Path(one.recipe))
    }


def _as_json(sweep: RemoteSweep, limits: Limits, names: Names) -> dict[str, Any]:
    now = time.time()
    return {
        "deleted": limits.delete,
        "size": sweep.total,
        "limit": limits.size,
        "freed": sweep.freed,
        "results": [
            {
                "key": result.key,
                "kind": result.kind,
                "target": names.get(result.key, ("", ""))[0],
                "recipe": names.get(result.key, ("", ""))[1],
                "used": now - result.unused,
                "size": result.size,
            }
            for result in sweep.results
        ],
        "unowned": {"blobs": sweep.loose, "damaged": sweep.damaged, "strange": sweep.strange},
        "kept": sweep.kept,
    }


def _as_lines(sweep: RemoteSweep, limits: Limits, names: Names) -> list[str]:
    from olivebuild.cache.gc import Result
    from olivebuild.cli.caches.swept_line import line_of
    from olivebuild.core.text import clean, size

    now = time.time()
    lines = []
    for one in sweep.results:
        target, recipe = names.get(one.key, ("", ""))
        result = Result(one.key, one.kind, target, recipe, now - one.unused, one.size)
        lines.append(clean(line_of(result)))
    if sweep.loose:
        lines.append(f"{size(sweep.loose):>10}  blobs of no result")
    if sweep.damaged:
        lines.append(f"{sweep.damaged} results are damaged, and go")
    if sweep.strange:
        lines.append(f"{sweep.strange} objects are not olivebuild's, and stay")
    word = "deleted" if limits.delete else "would go"
    lines.append(f"{size(sweep.freed)} of {size(sweep.total)} {word}; {sweep.kept} results stay")
    if limits.size is not None and sweep.total - sweep.freed > limits.size:
        lines.append(
            f"the rest is more than {size(limits.size)}: it was used within two days, or is being "
            "uploaded"
        )
    if (sweep.freed or sweep.results) and not limits.delete:
        lines.append("`olivebuild gc --remote --delete` deletes it")
    return lines
