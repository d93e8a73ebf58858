"""Adapters in the slots of an ONNX model: which there are, and which of them answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from olivebuild.cli.completion import complete_adapters
from olivebuild.core.errors import RecipeError
from olivebuild.core.text import did_you_mean

if TYPE_CHECKING:
    from olivebuild.recipe.graph import Graph

IN_SLOTS = "onnx-adapter"
"""The kind of what answers in the slots of an ONNX model."""
ADAPTER = click.option(
    "--adapter",
    metavar="ADAPTER",
    help="Answer with this adapter in the model's slots.",
    shell_complete=complete_adapters,
)
ADAPTERS = click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="ADAPTER",
    help="Answer with this adapter in the model's slots. Of several the first; /adapter switches.",
    shell_complete=complete_adapters,
)


def base_of(graph: Graph, target: str) -> str:
    """Return the model below an adapter, and of another model itself. Raises RecipeError."""
    kind = graph.targets[target].kind
    if kind not in ("adapter", IN_SLOTS):
        return target
    name = "model" if kind == "adapter" else "base"
    model = getattr(graph.recipe.targets[target].fields, name, None)
    if model is None:
        hint = "name its `model`, or a merge of the two"
        raise RecipeError(
            f"the base of {target} is not known", where=graph.recipe.where(target), hint=hint
        )
    return str(model.target)


def adapters_on(graph: Graph, base: str) -> list[str]:
    """Return the targets that are adapters for the slots of a model."""
    return [
        name
        for name, target in graph.targets.items()
        if target.kind == IN_SLOTS and base_of(graph, name) == base
    ]


def check_adapters(graph: Graph, target: str, adapters: Sequence[str]) -> tuple[str, ...]:
    """Return the adapters that a command line names for a model, each once.

    Raises RecipeError for a name that is none of the model's.
    """
    graph.one(target)
    if not adapters:
        return ()
    base = base_of(graph, target)
    usable = adapters_on(graph, base)
    for name in adapters:
        if name not in usable:
            hint = (
                did_you_mean(name, usable)
                if usable
                else f"a target of kind {IN_SLOTS} with base: {base} makes one"
            )
            raise RecipeError(f"{name} is no adapter for {base}", where="--adapter", hint=hint)
    return tuple(dict.fromkeys(adapters))


class Voice(Struct, frozen=True, kw_only=True):
    """One that may answer: the model itself, or an adapter in its slots.

    `adapter` is "" for the model itself; `form` is the number of the template that its questions
    are put into, None for its chat template.
    """

    adapter: str = ""
    form: int | None = None


class Voices:
    """All that may answer in a chat, by name, and the one that does now."""

    def __init__(self, voices: Mapping[str, Voice], first: str) -> None:
        self._voices = voices
        self.name = first

    @property
    def now(self) -> Voice:
        """Return the one that answers."""
        return self._voices[self.name]

    @property
    def names(self) -> list[str]:
        """Return the names of all that may answer."""
        return list(self._voices)

    def turn_to(self, name: str) -> str:
        """Let another answer, if there is one of that name; return what is to be said."""
        others = ", ".join(f"{each} (now)" if each == self.name else each for each in self._voices)
        if not name:
            return f"there are {others}"
        if name not in self._voices:
            return f"there is no {name}; there are {others}"
        self.name = name
        return f"{name} answers from here on"
