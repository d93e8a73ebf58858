"""The model that chat, predict and serve ask: built first, with templates for what it is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from olivebuild.cli.completion import MODELS, complete_data
from olivebuild.cli.inference.adapters import IN_SLOTS, base_of
from olivebuild.cli.options import SET
from olivebuild.core.errors import BuildError, InputError, RecipeError
from olivebuild.core.text import clean

if TYPE_CHECKING:
    from olivebuild.core.errors import Problem
    from olivebuild.planner.plan import Plan
    from olivebuild.planner.project import Project
    from olivebuild.recipe.graph import Graph

SUBJECTS = MODELS
ANSWERS = {"prompt": "completion", "user": "assistant"}
"""The field of what is asked -> that of the answer."""


class Asking(Struct, frozen=True, kw_only=True):
    """Options of the commands that ask a model."""

    settings: tuple[str, ...]
    as_is: bool
    build: bool
    data: str | None
    max_tokens: int


def asking_options(function: Callable[..., Any], most_tokens: int = 256) -> Callable[..., Any]:
    """Add the options of asking a model to a command, which gets them as `options`.

    `most_tokens` is the default for the tokens of an answer.
    """

    @SET
    @click.option(
        "--as-is", is_flag=True, help="Ask what was built last, though it is not up to date."
    )
    @click.option("--build", is_flag=True, help="Build first what is stale, without a question.")
    @click.option(
        "--data",
        metavar="DATASET",
        help="Put what is asked into this data set's template.",
        shell_complete=complete_data,
    )
    @click.option(
        "--max-tokens",
        type=click.IntRange(1),
        default=most_tokens,
        show_default=True,
        help="Cut an answer after N tokens.",
        metavar="N",
    )
    @wraps(function)
    def command(
        *args: Any,
        settings: tuple[str, ...],
        as_is: bool,
        build: bool,
        data: str | None,
        max_tokens: int,
        **rest: Any,
    ) -> Any:
        if as_is and build:
            raise RecipeError(
                "--as-is and --build don't go together", where="command line", hint="leave one out"
            )
        options = Asking(
            settings=settings, as_is=as_is, build=build, data=data, max_tokens=max_tokens
        )
        return function(*args, options=options, **rest)

    return command


@dataclass(frozen=True, kw_only=True)
class InSlots:
    """A built adapter that may answer in the slots of a model.

    `template_date` is what a chat template that it brings is told; "" where none reads the clock.
    """

    folder: str
    digest: str
    template_date: str


@dataclass(frozen=True)
class Subject:
    """A built model: its folder, and that of an adapter on top of it.

    `digests` are those of both folders. `template_date` is that of the two, `base_date` that of the
    model alone.
    """

    target: str
    folder: str
    adapter: str
    trust_remote_code: bool
    digests: tuple[str, ...]
    template_date: str = ""
    trust_adapter: bool = False
    adapters: Mapping[str, InSlots] = field(default_factory=dict)
    """Adapters that may answer instead, in the slots of the model, by name."""
    base_date: str = ""

    def digests_of(self, name: str) -> tuple[str, ...]:
        """Return the digests of all that answers under a name; one is "" where it is not known."""
        adapter = self.adapters.get(name)
        digests = (self.digests[0], adapter.digest) if adapter else self.digests
        return tuple(dict.fromkeys(digests))

    def in_slots(self, names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return what a model process is told of adapters: name -> (folder, date)."""
        return {
            name: (self.adapters[name].folder, self.adapters[name].template_date) for name in names
        }


@contextmanager
def loading(target: str) -> Iterator[None]:
    """Context in which a terminal shows that a model is being loaded, and for how long."""
    if not sys.stderr.isatty():
        yield
        return
    from olivebuild.api.event import Event
    from olivebuild.ui.live import on_stderr

    with on_stderr() as display:
        display(Event("working", {"node": target, "what": "loading the model"}))
        yield


@contextmanager
def open_subject(
    project: Project, target: str, options: Asking, adapters: Sequence[str] = ()
) -> Iterator[Subject]:
    """Context with the model that a verb names, which is built first where it is stale.

    `adapters` are targets that may answer in its slots. --as-is takes what was built last instead.
    Where neither that nor --build is given, a person at a terminal is asked. Raises RecipeError for
    a target that is no model, and the error of a step that fails.
    """
    from olivebuild.cli.inference.last_built import last_folder

    goals = _goals_of(project.graph, target, adapters)
    # What was built last can be asked also where an input is gone since.
    plan = project.planner.plan(goals, with_faults=options.as_is)
    if _is_taken_as_it_is(project, plan, target, goals, options):
        with ExitStack() as stack:
            last = [
                stack.enter_context(last_folder(project.planner, plan.states[name]))
                for name in goals
            ]
            yield _subject(project, target, goals, last, plan)
        return
    plan = build_goals(project, goals)
    states = [plan.states[name] for name in goals]
    yield _subject(
        project,
        target,
        goals,
        [(Path(str(s.folder)), (s.outputs or {}).get("", "")) for s in states],
        plan,
    )


def _goals_of(graph: Graph, target: str, adapters: Sequence[str] = ()) -> list[str]:
    """Return the target and, of an adapter, its base before it, and `adapters` after it.

    Raises RecipeError, InputError.
    """
    from olivebuild.planner.checks import providers

    graph.one(target)
    kind = graph.targets[target].kind
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
    base = base_of(graph, target)
    _check_provider(graph, base, providers.problem_of(graph.nodes[base], graph.recipe.folder))
    return list(dict.fromkeys([base, target, *adapters]))


def _is_taken_as_it_is(
    project: Project, plan: Plan, target: str, goals: list[str], options: Asking
) -> bool:
    """Return whether what was built last is used; say on stderr what is stale, and the cost.

    Nothing is said of what was never built here: then there is one thing to do.
    """
    from olivebuild.cli.inference.last_built import has_last, pending
    from olivebuild.ui import plain
    from olivebuild.ui.wording import cost_of_build, describe

    stale = pending(plan)
    if stale is None or options.build:
        return False
    if not all(has_last(project.planner, plan.states[name]) for name in goals):
        if options.as_is:
            raise BuildError(
                f"there is no last result of {target} to use: it was never built here",
                hint="without --as-is it is built first",
            )
        return False
    why = "; ".join(map(describe, stale.reasons[:2])) or "it comes first"
    cost = cost_of_build(stale.seconds, is_whole=stale.is_whole)
    note = f"{target} is not up to date ({stale.target}: {clean(why)}): a build takes {cost}"
    if options.as_is:
        plain.echo(f"note: {note}; asking what was built last", err=True)
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        plain.echo(f"note: {note}; --as-is asks what was built last", err=True)
        return False
    plain.echo(f"{note}.", err=True)
    return not click.confirm(
        "Build it first? Otherwise what was built last is asked", default=True, err=True
    )


def _subject(
    project: Project,
    target: str,
    goals: Sequence[str],
    places: Sequence[tuple[Path, str]],
    plan: Plan,
) -> Subject:
    """Return a model by the folders of the goals, and their digests.

    Raises InputError for a model that can't run here.
    """
    from olivebuild.formats import onnx_folder
    from olivebuild.planner.checks import providers

    graph, by_name = project.graph, dict(zip(goals, places, strict=True))
    base = base_of(graph, target)
    (folder, digest), (last, last_digest) = by_name[base], by_name[target]
    # A choice, or a folder that came from elsewhere, tells only now.
    names = onnx_folder.providers_in(folder)
    _check_provider(graph, base, providers.problem_with(base, names))
    in_slots = [name for name in goals if graph.targets[name].kind == IN_SLOTS]

    def date_of(name: str) -> str:
        return project.planner.dating.date_of(name, plan.lookups)

    return Subject(
        target,
        str(folder),
        str(last) if base != target else "",
        graph.trusts_remote_code(graph.nodes[base]),
        (digest, last_digest),
        date_of(target),
        graph.trusts_remote_code(graph.nodes[target]),
        {
            name: InSlots(
                folder=str(by_name[name][0]),
                digest=by_name[name][1],
                template_date=date_of(name),
            )
            for name in in_slots
        },
        date_of(base),
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
    from olivebuild.executors.local import LocalExecutor
    from olivebuild.library import building
    from olivebuild.library.executors import BuildOptions
    from olivebuild.ui import plain
    from olivebuild.ui.live import on_stderr

    def tell(line: str) -> None:
        plain.echo(f"note: {line}", err=True)

    outcome = building.run(project, goals, BuildOptions(), LocalExecutor(), on_stderr(), tell)
    if outcome.report.errors:
        raise outcome.report.errors[0]
    assert outcome.report.plan
    return outcome.report.plan


def forms_for(graph: Graph, target: str, *, others: bool = True) -> tuple[dict[str, str], ...]:
    """Return the templates of the data sets that the target depends on, then of the `others`."""
    below = [
        name for name in graph.targets_below([target]) if graph.targets[name].kind == "dataset"
    ]
    rest = [
        name
        for name, t in graph.targets.items()
        if others and t.kind == "dataset" and name not in below
    ]
    return tuple(form for name in (*below, *rest) if (form := _form(graph, name)))


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


def trained_form(graph: Graph, target: str) -> dict[str, str] | None:
    """Return the template that a model was trained on, if what a person writes is all it takes.

    None where there is none, and where the model's chat template says as much: then what was said
    before may stand before a question.
    """
    from olivebuild.data.templates import columns_in

    for form in forms_for(graph, target, others=False):
        names = set(columns_in(form["text"])) if form["format"] != "messages" else set()
        if len(names) == 1:
            is_bare = form["format"] == "user" and form["text"] == f"{{{names.pop()}}}"
            return None if is_bare else form
    return None


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
    if template is None:
        return None
    answer = getattr(fields, ANSWERS.get(template[0], ""), None)
    return {"name": name, "format": template[0], "text": template[1], "answer": answer or ""}
