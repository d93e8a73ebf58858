"""MergeAdapterWeights -> a merged model; ExtractAdapters, which has no target here."""

from __future__ import annotations

from dataclasses import replace

from olivebuild.recipe.importers.olive.draft import Ref
from olivebuild.recipe.importers.olive.table import claim_rest
from olivebuild.recipe.importers.olive.workflow import Pass, State, Workflow


def map_merge(workflow: Workflow, state: State, pass_: Pass) -> State:
    """Write the merge of the adapter that came before."""
    claim_rest(workflow, pass_.options, "MergeAdapterWeights")
    if not state.adapter:
        pass_.section.refused(
            "type", "there is no adapter to merge", "put the pass behind one that trains an adapter"
        )
        return state
    target = workflow.draft.target(pass_.name, "merged", pass_.section.path)
    target.set("model", Ref(target=state.model))
    target.set("adapter", Ref(target=state.adapter))
    adapter = workflow.draft.targets[state.adapter]
    if adapter.get("method") == "qlora" and not workflow.generation.since(0, 7):
        target.set(
            "onto",
            "dequantised",
            note=f"Olive {workflow.generation.name} merges into the 4-bit weights; here they stay "
            "in full precision",
        )
    elif adapter.get("method") == "qlora":
        target.comment("Into the original weights, not those that training saw, as in Olive.")
    return replace(state, model=target.name, adapter="")
