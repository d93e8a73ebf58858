"""Sections of an Olive file, for a mapper to be called with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from olivebuild.recipe.importers.olive.draft import Draft, DraftTarget
from olivebuild.recipe.importers.olive.generation import recognise
from olivebuild.recipe.importers.olive.ledger import Entry, Ledger
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import parse, shown

FOLDER = Path("/nowhere")


class Reading:
    """A file under way, and what its mappers did with it."""

    def __init__(self, value: dict[str, Any], version: str = "0.8.0", **options: Any) -> None:
        document = parse(json.dumps(value, indent=1), "olive.json")
        assert isinstance(document.value, dict)
        self.ledger = Ledger(document)
        self.root = Section(self.ledger, (), document.value)
        self.workflow = Workflow(
            document=document,
            ledger=self.ledger,
            draft=Draft(document),
            generation=recognise(document, version),
            root=self.root,
            folder=options.pop("folder", FOLDER),
            out=options.pop("out", FOLDER),
            **options,
        )

    def section(self, *keys: str) -> Section:
        """Return a mapping below."""
        section = self.root
        for key in keys:
            below = section.section(key)
            assert below is not None
            section = below
        return section

    def target(self, kind: str = "dataset", name: str = "rows") -> DraftTarget:
        return self.workflow.draft.target(name, kind)

    def unclaimed(self) -> list[str]:
        return [shown(path) for path in self.ledger.unclaimed()]

    def entries(self) -> dict[str, Entry]:
        """Return what became of each leaf; what no mapper claimed is refused."""
        return {shown(entry.path): entry for entry in self.ledger.close()}

    def refusals(self) -> dict[str, str]:
        """Return path -> fact of what a mapper refused so far."""
        return {shown(entry.path): entry.text for entry in self.ledger.refusals()}


def values(target: DraftTarget) -> dict[str, object]:
    """Return the fields of a target but its kind."""
    return {name: line.value for name, line in target.fields.items() if name != "kind"}
