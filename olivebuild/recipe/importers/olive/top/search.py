"""Search strategy of a workflow: whether its alternatives are all built and one is chosen."""

from __future__ import annotations

from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.top.engine import Engine
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Placeholder

ALL = "every alternative is built, measured, and kept"
KNOWN = {
    "execution_order": ALL,
    "search_algorithm": ALL,
    "search_algorithm_config": ALL,
    "sampler": ALL,
    "sampler_config": ALL,
    "max_iter": ALL,
    "max_time": ALL,
    "stop_when_goals_met": ALL,
    "output_model_num": "one is chosen, and all stay in build/",
    "include_pass_params": "alternatives of fields are those that the file lists",
    # From 0.7 on the options of the sampler may stand beside it.
    "num_samples": ALL,
    "max_samples": ALL,
    "seed": ALL,
    "multivariate": ALL,
    "group": ALL,
}


def map_search(workflow: Workflow, engine: Engine) -> None:
    """Set `workflow.search`, and claim the search strategy."""
    holder = engine.holder("search_strategy")
    if holder is None:
        return
    value = holder.value["search_strategy"]
    if value is None or value is False or value == {}:
        holder.no_effect("search_strategy", "each pass runs once, as here")
    elif isinstance(value, Placeholder):
        holder.no_effect("search_strategy", "it is left open: each pass runs once")
    elif value is True:
        workflow.search = True
        holder.mapped("search_strategy", "best", ALL)
    elif isinstance(value, dict):
        workflow.search = True
        section = Section(workflow.ledger, holder.at("search_strategy"), value)
        for key, because in KNOWN.items():
            if key in section:
                section.no_effect(key, because)
        section.unknown(KNOWN)
    else:
        holder.wrong("search_strategy", "true, false or a mapping")
