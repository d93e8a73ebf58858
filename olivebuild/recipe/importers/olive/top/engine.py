"""Engine of a workflow: what says how and where it runs, from its own section or the top level.

From 0.7 on the engine's fields may stand at the top level.
"""

from __future__ import annotations

from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Path

RUNS = ("host", "target", "evaluator", "search_strategy", "execution_providers")
"""Fields with a meaning here, claimed where they are used."""
ANSWERED = "what was made is never made again, by digests of all that it is made from"
LOGS = "olivebuild prints its progress, and keeps a log for each target"
RESULTS = "results lie in build/, a folder for each target"
IDLE = {
    "cache_dir": ANSWERED,
    "clean_cache": ANSWERED,
    "clean_evaluation_cache": ANSWERED,
    "cache_config": ANSWERED,
    "enable_shared_cache": "a cache of several machines is not there in this version",
    "output_dir": RESULTS,
    "output_name": RESULTS,
    "no_artifacts": "figures are always kept beside what they were measured of",
    "plot_pareto_frontier": "`olivebuild report` shows the candidates of a choice",
    "log_severity_level": LOGS,
    "ort_log_severity_level": LOGS,
    "ort_py_log_severity_level": LOGS,
    "log_to_file": LOGS,
}
CLIENT = "azureml_client_config"
OTHER = ("packaging_config", "evaluate_input_model", "evaluation_only", CLIENT)
FIELDS = (*RUNS, *IDLE, *OTHER)
TOP = (
    "azureml_client",
    "input_model",
    "systems",
    "data_config",
    "data_configs",
    "data_root",
    "evaluators",
    "engine",
    "passes",
    "pass_flows",
    "auto_optimizer_config",
    "workflow_id",
    "workflow_host",
    "builds",
    "max_concurrent_builds",
)
"""Fields of the top level that are not the engine's."""
IDLE_TOP = {
    "$schema": "a hint for editors",
    "metadata": "a note of the AI Toolkit's",
    "verbose": LOGS,
    "workflow_id": "results and cache are told apart by the recipe",
    "max_concurrent_builds": "`--jobs` says how many steps run at once",
}
PACKAGES = {
    "zipfile": "",
    "azuremlmodels": "nothing registers models with Azure ML in this version",
    "azuremldata": "nothing registers data with Azure ML in this version",
    "azuremldeployment": "nothing deploys to Azure ML in this version",
    "dockerfile": "nothing writes Dockerfiles in this version",
}
"""Type of packaging in lower case -> why it is refused; "" if it is without effect."""


class Engine:
    """The engine's fields, wherever they stand."""

    def __init__(self, workflow: Workflow) -> None:
        self.root = workflow.root
        section = workflow.root.section("engine")
        self.section = section if section is not None else Section(workflow.ledger, ("engine",), {})
        for name in FIELDS:
            if name in self.section and name in self.root:
                self.root.refused(name, f"{name} stands in `engine`, too", "keep one of the two")
        if section is not None and not section.value:
            workflow.ledger.no_effect(section.path, "it is empty")

    def holder(self, name: str) -> Section | None:
        """Return the section that has a field; None if neither has."""
        return next((s for s in (self.section, self.root) if name in s), None)

    def value(self, name: str) -> object:
        holder = self.holder(name)
        return holder.value[name] if holder is not None else None

    def path(self, name: str) -> Path:
        """Return the path of a field that is there."""
        holder = self.holder(name)
        assert holder is not None
        return holder.at(name)

    def finish(self, workflow: Workflow) -> None:
        """Claim what changes nothing here, and refuse what is unknown."""
        for name, because in IDLE.items():
            if (holder := self.holder(name)) is not None:
                holder.no_effect(name, because)
        if (holder := self.holder("packaging_config")) is not None:
            self._packaging(holder)
        if (holder := self.holder("evaluation_only")) is not None:
            if holder.get("evaluation_only", bool) is True:
                holder.refused(
                    "evaluation_only",
                    "only the input model is measured, and no pass runs",
                    "leave it out, and build the benchmark alone",
                )
            else:
                holder.no_effect("evaluation_only", "it is off")
        for name, because in IDLE_TOP.items():
            if name in workflow.root:
                workflow.root.no_effect(name, because)
        self.section.unknown(FIELDS) if self.section.value else None

    def _packaging(self, holder: Section) -> None:
        if not holder.value["packaging_config"]:
            holder.no_effect("packaging_config", "it is empty")
        for path, item in holder.items("packaging_config"):
            kind = item.get("type", "Zipfile") if isinstance(item, dict) else None
            if not isinstance(kind, str) or kind.lower() not in PACKAGES:
                holder.ledger.refused(
                    path, "no kind of packaging that there is", "leave it out, and pack build/NAME"
                )
            elif reason := PACKAGES[kind.lower()]:
                holder.ledger.refused(
                    path, reason, "build/NAME is the folder to send there", fatal=False
                )
            else:
                holder.ledger.no_effect(path, "build/NAME is the folder to pack")
