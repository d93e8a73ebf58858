"""Folders that come from elsewhere.

Those on this disk are looked at when a plan is made, others as soon as they have come.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from olivebuild.core.errors import Where
from olivebuild.core.fs import links
from olivebuild.core.fs.files import files_below
from olivebuild.formats import foreign, onnx_folder
from olivebuild.formats.foreign import Fault


def faults(folder: Path, kind: str) -> Iterator[Fault]:
    """Yield what a folder of a kind would have loaded for which the recipe has to say so."""
    if kind == "onnx":
        yield from onnx_folder.faults(folder)
    if kind == "adapter":
        yield from foreign.of_adapter_folder(folder)
    else:
        # An ONNX folder, too, may hold a config.json, which its tokenizer's class may hang on.
        yield from foreign.of_model(folder)


def hint(kind: str) -> str:
    return (
        foreign.MODEL_HINT
        if kind == "model"
        else foreign.HINT
        if kind != "merged"
        else "name it as a model, which can be trusted"
    )


def check(folder: Path, kind: str, where: Where | str | None, *, trust: bool) -> None:
    """Check a folder from elsewhere.

    Raises InputError for a link that leaves the folder, trusted or not, and for what takes the
    recipe's trust.
    """
    # Of a model's folder the scan looks at what loaders read.
    links.check(
        folder,
        files_below(folder) if kind in ("adapter", "onnx") else sorted(folder.iterdir()),
        where,
    )
    if not trust:
        foreign.check(faults(folder, kind), hint(kind), where)
