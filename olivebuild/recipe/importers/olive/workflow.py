"""State that the mappers of an Olive workflow share.

The file, the ledger, the draft, and what one pass hands to the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File

from olivebuild.recipe.importers.olive.draft import Draft
from olivebuild.recipe.importers.olive.generation import Generation
from olivebuild.recipe.importers.olive.ledger import Ledger
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.positions import Document, Path, Placeholder


@dataclass(kw_only=True)
class Workflow:
    """An import under way."""

    document: Document
    ledger: Ledger
    draft: Draft
    generation: Generation
    root: Section
    """The file's mapping."""
    folder: File
    """The folder of the file, where Olive's relative paths begin."""
    out: File
    """The folder of the recipe, where its relative paths begin."""
    better: bool = False
    """Write what we would recommend instead of what Olive does."""
    search: bool = False
    """Whether the engine searches among alternatives."""
    data: dict[str, object] = field(default_factory=dict)
    """What the mapper of data sets made so far, by a name of its own."""

    def relative(self, path: str) -> str:
        """Return a path of the file as the recipe writes it."""
        if os.path.isabs(path) or self.folder == self.out:
            return path
        return os.path.relpath(self.folder / path, self.out).replace(os.sep, "/")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The accelerator for which a pass builds: what `engine.target` and its like say."""

    provider: str | Placeholder = "cpu"
    """A word of the recipe: cpu, cuda, dml or webgpu; or one that is left open."""
    device: str = "cpu"
    """Olive's word: cpu, gpu or npu."""
    paths: tuple[Path, ...] = ()
    """What says so in the file; empty if nothing does."""


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """A field of an ONNX model that passes before its conversion decide."""

    field: str
    value: object
    path: Path
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class State:
    """Models and adapters that one pass hands to the next, as names of targets in the draft."""

    model: str
    """Full weights: a `model` or `merged`."""
    adapter: str = ""
    """Trained or given, and not merged yet."""
    onnx: str = ""
    dtype: str = ""
    """The number format in which Olive loads the base of the last training, "" before any."""
    quantisation: tuple[Rounding, ...] = ()
    """How passes before the conversion round weights: fields of the ONNX model to be."""

    @property
    def result(self) -> str:
        """The target that a flow that ends here is for."""
        return self.onnx or self.adapter or self.model


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One entry of `passes`."""

    name: str
    """Its key. Alternatives of one key have the same."""
    type: str
    """In lower case: `lora`, `modelbuilder`."""
    section: Section
    """All of it: `type`, `config`, `host`, ..."""
    options: Section
    """What is below `config`, or beside `type` in the flattened form of 0.7 and later."""
    hardware: Hardware


PassMapper = Callable[[Workflow, State, Pass], State]
"""Writes the targets of one pass, claims the leaves of its options, and returns what follows.

The keys beside the options (`type`, `host`, `evaluator`, `output_name`, `disable_search`,
`clean_run_cache`) are claimed by the caller.
"""
PassMappers = Mapping[str, PassMapper]
