"""The model that chat and predict ask: built first, with templates for what it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from olivebuild.core.errors import InputError, RecipeError

if TYPE_CHECKING:
    from olivebuild.core.errors import Problem
    from olivebuild.planner.plan import Plan
    from olivebuild.planner.project import Project
    from olivebuild.recipe.graph import Graph

SUBJECTS = ("model", "merged", "adapter", "onnx", "choice")
DATA = click.option(
    "--data", metavar="DATASET", help="Put what is asked into this data set's template."
)


MAX_TOKENS = click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Cut an answer after N tokens.",
    metavar="N",
)


@dataclass(frozen=True)
class Subject:
    """A built model: its folder, and that of an adapter on top of it.

    `digests` are those of both folders.
    """

    target: str
    folder: str
    adapter: str
    trust_remote_code: bool
    digests: tuple[str, ...]
    template_date: str = ""
    trust_adapter: bool = False


def build_subject(project: Project, target: str) -> Subject:
    """Build the target that a verb names if it is stale, and return it.

    Raises RecipeError for a target that is no model, and the error of a step that fails.
    """
    from olivebuild.formats import onnx_folder
    from olivebuild.planner.checks import providers

    graph = project.graph
    graph.one(target)
    kind, fields = graph.targets[target].kind, graph.recipe.targets[target].fields
    if kind not in SUBJECTS:
        models = [name for name, t in graph.targets.items() if t.kind in SUBJECTS]
        hint = (
            f"models of this recipe are {', '.join(models)}"
            if models
            else "the recipe has no model"
        )
        raise RecipeError(
            f"{target} is of kind {kind}, which can't be asked",
            where=graph.recipe.where(target),
            hint=hint,
        )
    base = target
    if kind == "adapter":
        model = getattr(fields, "model", None)
        if model is None:
            hint = "name its `model`, or a merge of the two"
            raise RecipeError(
                f"the base of {target} is not known", where=graph.recipe.where(target), hint=hint
            )
        base = model.target
    _check_provider(graph, target, providers.problem_of(graph.nodes[target], graph.recipe.folder))
    plan = build_goals(project, list(dict.fromkeys([base, target])))
    folders = [str(plan.states[name].folder) for name in (base, target)]
    # A choice, or a folder that came from elsewhere, tells only now.
    names = onnx_folder.providers_in(Path(folders[1]))
    _check_provider(graph, target, providers.problem_with(target, names))
    digests = tuple((plan.states[name].outputs or {}).get("", "") for name in (base, target))
    return Subject(
        target,
        folders[0],
        folders[1] if kind == "adapter" else "",
        graph.trusts_remote_code(graph.nodes[base]),
        digests,
        project.planner.dating.date_of(target, plan.lookups),
        graph.trusts_remote_code(graph.nodes[target]),
    )


def _check_provider(graph: Graph, target: str, problem: Problem | None) -> None:
    """Raise InputError for a model that can't run here."""
    if problem:
        field = ("provider",) if graph.targets[target].kind == "onnx" else ()
        where = graph.recipe.where(target, field)
        raise InputError(problem.fact, where=where, hint=problem.hint)


def build_goals(project: Project, goals: list[str]) -> Plan:
    """Build goals, with the build's lines on stderr: stdout is for answers.

    Raises the error of a step that fails.
    """
    from olivebuild.engine.builder import Builder
    from olivebuild.engine.recorder import Recorder, record
    from olivebuild.executors.local import LocalExecutor
    from olivebuild.ui.live import on_stderr

    with on_stderr() as display:
        recorder = Recorder(display)
        report = Builder(project.planner, LocalExecutor(), recorder).run(goals)
    record(project, recorder, report, [])
    if report.errors:
        raise report.errors[0]
    assert report.plan
    return report.plan


def forms_for(graph: Graph, target: str) -> tuple[dict[str, str], ...]:
    """Return the templates of the data sets that the target depends on, then of the others."""
    below = [
        name for name in graph.targets_below([target]) if graph.targets[name].kind == "dataset"
    ]
    others = [
        name for name, t in graph.targets.items() if t.kind == "dataset" and name not in below
    ]
    return tuple(form for name in (*below, *others) if (form := _form(graph, name)))


def form_of(graph: Graph, name: str, *, single: bool = False) -> dict[str, str]:
    """Return a data set's template.

    Raises RecipeError when there is no such data set, or no such template.
    """
    graph.one(name)
    where = graph.recipe.where(name)
    form = _form(graph, name) if graph.targets[name].kind == "dataset" else None
    if form is None:
        raise RecipeError(
            f"{name} is not a data set whose rows ask something",
            where=where,
            hint="it needs prompt, user or messages",
        )
    from olivebuild.data.templates import columns_in

    if single and (form["format"] == "messages" or len(set(columns_in(form["text"]))) != 1):
        raise RecipeError(
            f"what you write is one text, and the template of {name} takes more than that",
            where=where,
            hint="leave --data out",
        )
    return form


def _form(graph: Graph, name: str) -> dict[str, str] | None:
    fields = graph.recipe.targets[name].fields
    template = next(
        (
            (kind, text)
            for kind in ("prompt", "user", "messages")
            if (text := getattr(fields, kind, None)) is not None
        ),
        None,
    )
    return {"name": name, "format": template[0], "text": template[1]} if template else None
