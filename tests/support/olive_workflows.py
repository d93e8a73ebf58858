"""Workflows of Olive, mapped without a file: the model, each pass in order, the data sets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from olivebuild.recipe.importers.olive import data, model
from olivebuild.recipe.importers.olive.better import add_benchmarks
from olivebuild.recipe.importers.olive.draft import Draft
from olivebuild.recipe.importers.olive.generation import recognise
from olivebuild.recipe.importers.olive.ledger import Entry, Fate, Ledger
from olivebuild.recipe.importers.olive.passes import registry
from olivebuild.recipe.importers.olive.section import Section, config_of
from olivebuild.recipe.importers.olive.workflow import Hardware, Pass, State, Workflow
from olivebuild.recipe.importers.positions import parse, shown


@dataclass(kw_only=True)
class Mapped:
    """A mapped workflow."""

    workflow: Workflow
    state: State
    entries: dict[str, Entry]
    """By their paths, such as `passes.lora.config.r`."""

    @property
    def targets(self) -> dict[str, dict[str, Any]]:
        """The targets of the recipe, as YAML has them."""
        recipe: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(self.workflow.draft.text())
        return recipe["targets"]

    def of(self, fate: Fate) -> dict[str, str]:
        """The paths in a list, and what is said of them."""
        return {path: e.text or e.field for path, e in self.entries.items() if e.fate is fate}

    @property
    def refused(self) -> dict[str, str]:
        return self.of(Fate.REFUSED)

    @property
    def meant_else(self) -> dict[str, str]:
        return self.of(Fate.MEANT_ELSE)


def mapped(
    workflow_of: dict[str, Any] | str,
    version: str | None = None,
    *,
    folder: Path = Path("/nowhere"),
    better: bool = False,
    search: bool = False,
    provider: str = "cpu",
) -> Mapped:
    """Map `input_model`, `data_configs` and `passes` of a workflow; the rest is none of it."""
    text = workflow_of if isinstance(workflow_of, str) else json.dumps(workflow_of, indent=1)
    document = parse(text, "olive.json")
    assert isinstance(document.value, dict)
    ledger = Ledger(document)
    workflow = Workflow(
        document=document,
        ledger=ledger,
        draft=Draft(document),
        generation=recognise(document, version),
        root=Section(ledger, (), document.value),
        folder=folder,
        out=folder,
        better=better,
        search=search,
    )
    state = model.map_model(workflow)
    passes = workflow.root.section("passes")
    for name in passes.value if passes else ():
        section = passes.section(name) if passes else None
        assert section is not None
        kind = str(section.value.get("type"))
        one = Pass(
            name=name,
            type=kind.lower(),
            section=section,
            options=config_of(section),
            hardware=Hardware(provider=provider, device="cpu" if provider == "cpu" else "gpu"),
        )
        for key in ("type", "host", "evaluator"):
            if key in section:
                section.mapped(key, "")
        mapper = registry.PASSES.get(one.type)
        if mapper is None:
            registry.refuse(workflow, one)
            ledger.no_effect(section.path, "its pass is refused")
        else:
            state = mapper(workflow, state, one)
    workflow.draft.default = [state.result]
    if better:
        add_benchmarks(workflow, [state])
    data.finish_data(workflow)
    entries = {shown(e.path): e for e in ledger.close()}
    return Mapped(workflow=workflow, state=state, entries=entries)
