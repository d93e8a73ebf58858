"""The import of an Olive workflow: its file -> a recipe and what became of each leaf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File

from olivebuild.core.errors import RecipeError, Where
from olivebuild.recipe.importers import positions
from olivebuild.recipe.importers.olive import data, model
from olivebuild.recipe.importers.olive.better import add_benchmarks
from olivebuild.recipe.importers.olive.draft import Draft
from olivebuild.recipe.importers.olive.generation import Generation, recognise
from olivebuild.recipe.importers.olive.ledger import Entry, Fate, Ledger
from olivebuild.recipe.importers.olive.section import Section
from olivebuild.recipe.importers.olive.top.engine import CLIENT, FIELDS, IDLE_TOP, TOP, Engine
from olivebuild.recipe.importers.olive.top.environment import Environment, read_environments
from olivebuild.recipe.importers.olive.top.evaluators import map_evaluators
from olivebuild.recipe.importers.olive.top.flows import Flows, Skipped
from olivebuild.recipe.importers.olive.top.search import map_search
from olivebuild.recipe.importers.olive.top.systems import Systems
from olivebuild.recipe.importers.olive.top.trust import refuse_trust
from olivebuild.recipe.importers.olive.verify import check_values
from olivebuild.recipe.importers.olive.workflow import Workflow
from olivebuild.recipe.importers.positions import Document


@dataclass(frozen=True, kw_only=True)
class Import:
    """Outcome of an import of a workflow."""

    document: Document
    generation: Generation
    entries: list[Entry]
    """One for each leaf of the file, in its order."""
    recipe: str
    """The text of the recipe; it stands for nothing where `faults` has entries."""
    targets: tuple[str, ...]
    default: tuple[str, ...]
    executors: tuple[str, ...]
    environments: list[Environment]
    """The conda files that it names, and what is written for them beside the recipe."""

    @property
    def faults(self) -> list[Entry]:
        """The refusals without which no recipe would mean what the file does."""
        return [e for e in self.entries if e.fate is Fate.REFUSED and e.fatal]

    @property
    def placeholders(self) -> list[Entry]:
        return [e for e in self.entries if e.placeholder]

    def error(self) -> RecipeError:
        """Return the first fault as an error."""
        first = self.faults[0]
        more = len(self.faults) - 1
        fact = f"{positions.shown(first.path)}: {first.text}"
        return RecipeError(
            f"{fact} (and {more} more that the report lists)" if more else fact,
            where=self.document.where(first.path),
            hint=first.hint,
        )


def import_workflow(
    file: File,
    *,
    out: File,
    shown: str,
    version: str | None = None,
    better: bool = False,
    trust_index: bool = False,
) -> Import:
    """Return the import of a file for a recipe in the folder `out`.

    `shown` names the file in messages, `version` is the value of `--olive-version`. Raises
    RecipeError for what is no JSON, or no mapping, and for a conda file that is none.
    """
    document = positions.read(file, shown)
    generation = recognise(document, version)

    def mapped(skipped: dict[Skipped, str]) -> tuple[Import, dict[Skipped, str]]:
        ledger = Ledger(document)
        workflow = Workflow(
            document=document,
            ledger=ledger,
            draft=Draft(document),
            generation=generation,
            root=Section(ledger, (), _mapping(document)),
            folder=file.absolute().parent,
            out=out.absolute(),
            better=better,
        )
        return _import(workflow, skipped, trust_index=trust_index)

    done, failed = mapped({})
    if failed:
        # Olive ends a flow that has no model for a provider, and goes on with the others.
        again, more = mapped(failed)
        if not more and len(again.faults) < len(done.faults):
            return again
    return done


def _mapping(document: Document) -> dict[str, object]:
    """Return the file's mapping. Raises RecipeError where there is none."""
    if not isinstance(document.value, dict) or not document.value:
        raise RecipeError(
            "no workflow of Olive: it has to be a mapping",
            where=Where(document.file, 1),
            hint='it holds "input_model" and "passes"',
        )
    return document.value


def _import(
    workflow: Workflow, skipped: dict[Skipped, str], *, trust_index: bool
) -> tuple[Import, dict[Skipped, str]]:
    """Return an import, and what another one may skip."""
    environments: list[Environment] = []
    failed: dict[Skipped, str] = {}
    if not _is_part(workflow):
        systems, failed = _map(workflow, skipped)
        environments = read_environments(workflow, systems, trust_index=trust_index)
    entries = workflow.ledger.close()
    draft = workflow.draft
    draft.heading = _heading(workflow, workflow.document.file, entries)
    done = Import(
        document=workflow.document,
        generation=workflow.generation,
        entries=entries,
        recipe=draft.text(),
        targets=tuple(draft.targets),
        default=tuple(draft.default),
        executors=tuple(draft.executors),
        environments=environments,
    )
    return done, failed


def _is_part(workflow: Workflow) -> bool:
    """Return whether the file has passes alone, which are then refused.

    Raises RecipeError for JSON that is something else.
    """
    keys = workflow.root.value.keys()
    if keys & {*TOP, *FIELDS}:
        return False
    first = next(iter(keys))
    value = workflow.root.value[first]
    if isinstance(value, dict) and "type" in value:
        hint = 'put them below "passes", and add "input_model"'
        workflow.ledger.refused((), "passes without a workflow", hint)
        return True
    fact = "no workflow of Olive: it has neither `input_model` nor `passes`"
    raise workflow.ledger.error((first,), fact, "is it one?")


def _map(workflow: Workflow, skipped: dict[Skipped, str]) -> tuple[Systems, dict[Skipped, str]]:
    """Have every section of the file mapped, and claim what belongs to none.

    Return the systems, and what another mapping may skip.
    """
    engine = Engine(workflow)
    map_search(workflow, engine)
    holder = engine.holder("execution_providers")
    providers = (
        (holder.at("execution_providers"), holder.value["execution_providers"])
        if holder is not None
        else None
    )
    systems = Systems(workflow, providers)
    start = model.map_model(workflow)
    refuse_trust(workflow, start)
    flows = Flows(workflow=workflow, engine=engine, systems=systems, skipped=skipped)
    flows.run(start)
    goals = list(dict.fromkeys(state.result for state in flows.results))
    workflow.draft.default = goals or [start.result]
    map_evaluators(workflow, engine, start, flows.results)
    if workflow.better:
        add_benchmarks(workflow, flows.results)
    data.finish_data(workflow)
    _auto_optimizer(workflow)
    client = workflow.root.section("azureml_client")
    if client is None and (holder := engine.holder(CLIENT)) is not None:
        client = holder.section(CLIENT)
    systems.finish(client)
    engine.finish(workflow)
    check_values(workflow)
    workflow.root.unknown((*TOP, *FIELDS, *IDLE_TOP))
    return systems, flows.failed


def _auto_optimizer(workflow: Workflow) -> None:
    """Claim `auto_optimizer_config`, which counts where a file has no passes."""
    root = workflow.root
    if "auto_optimizer_config" not in root:
        return
    section = root.section("auto_optimizer_config")
    if root.value.get("passes"):
        root.no_effect("auto_optimizer_config", "it counts only without `passes`")
    elif section is not None and section.value.get("disable_auto_optimizer") is True:
        root.no_effect("auto_optimizer_config", "it is off")
    elif section is not None:
        root.refused(
            "auto_optimizer_config",
            "Olive chooses the passes by itself there",
            'name them: "passes": {"builder": {"type": "ModelBuilder", "precision": "int4"}}',
        )


def _heading(workflow: Workflow, shown: str, entries: list[Entry]) -> list[str]:
    """Return the lines above a recipe."""
    generation = workflow.generation
    counts = {fate: sum(e.fate is fate for e in entries) for fate in Fate}
    lines = [
        f"Imported by olivebuild from {File(shown).name}, read as a workflow of Olive "
        f"{generation.name}.",
        f"Of its {len(entries)} values {counts[Fate.MAPPED]} are mapped, "
        f"{counts[Fate.NO_EFFECT]} have no effect here, {counts[Fate.MEANT_ELSE]} meant something "
        f"else than they say, and {counts[Fate.REFUSED]} are refused. Comments name the value that "
        "a line comes from.",
    ]
    if any(e.placeholder for e in entries):
        lines.append('Replace each "<placeholder: ...>" by a value before building what needs it.')
    return lines
