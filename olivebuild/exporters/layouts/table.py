"""The layouts: name -> which targets it is for, and what writes it."""

from __future__ import annotations

from msgspec import Struct

from olivebuild.core.errors import RecipeError
from olivebuild.exporters.layouts import folder, foundry_local, gguf, mlflow
from olivebuild.exporters.layouts.names import FOLDER, LAYOUTS
from olivebuild.exporters.layouts.origin import Write


class Layout(Struct, frozen=True, kw_only=True):
    """A layout: kinds of the targets that it is for (empty: all), and what writes it."""

    kinds: frozenset[str] = frozenset()
    write: Write


TABLE = {
    FOLDER: Layout(write=folder.write),
    "mlflow": Layout(kinds=frozenset(mlflow.WRITERS), write=mlflow.write),
    "foundry-local": Layout(kinds=frozenset(("onnx",)), write=foundry_local.write),
    "gguf": Layout(kinds=gguf.KINDS, write=gguf.write),
}


def check(name: str, kind: str, target: str) -> Layout:
    """Return the layout of that name. Raises RecipeError where it is not for a target's kind."""
    layout = TABLE.get(name)
    if layout is None:
        fact = f"there is no format {name!r}"
        raise RecipeError(fact, where="--format", hint=f"known are {', '.join(LAYOUTS)}")
    if layout.kinds and kind not in layout.kinds:
        fitting = " or ".join(sorted(layout.kinds))
        raise RecipeError(
            f"{target} is of the kind {kind}, and the format {name} is for {fitting}",
            where="--format",
            hint=f"name a target of the kind {fitting}",
        )
    return layout
