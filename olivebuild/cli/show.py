"""show: the rows of a data set as they are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from olivebuild.cli.completion import complete_data, complete_models
from olivebuild.cli.options import (
    JSON,
    SET,
    check_no_target,
    open_told,
    recipe_options,
)
from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.streams import json_text

if TYPE_CHECKING:
    from olivebuild.engine.shown_rows import Request
    from olivebuild.planner.project import Project
    from olivebuild.recipe.graph import Graph

SPLITS = ("train", "test")
TOKENIZERS = ("model", "merged")
"""The kinds beside adapters whose tokenizer may be asked for."""


@click.command()
@click.argument("dataset", required=False, shell_complete=complete_data)
@recipe_options
@SET
@click.option(
    "--for",
    "by",
    metavar="TARGET",
    shell_complete=complete_models,
    help="Show rows as this adapter is trained on them, or by this model's tokenizer.",
)
@click.option(
    "--split", type=click.Choice(SPLITS), help="The rows to train on, the default, or to test on."
)
@click.option(
    "--row",
    "rows",
    type=click.IntRange(1),
    multiple=True,
    metavar="N",
    help="Show row N with each of its tokens; of sequences, sequence N.",
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    metavar="N",
    help="Show the first N rows.",
)
@JSON
@click.pass_context
def show(
    ctx: click.Context,
    dataset: str | None,
    settings: tuple[str, ...],
    by: str | None,
    split: str | None,
    rows: tuple[int, ...],
    count: int,
    as_json: bool,
) -> None:
    """Show a data set's rows as they are trained: tokens, what the loss is on, and what is cut.

    Lengths, labels and dropped rows with their places come first. DATASET may be left out where
    there is one, and may be a split of it, as in tone.test. It is built first if it is stale; of a
    model that was not fetched yet, the tokenizer alone is fetched.

    \b
    olivebuild show tone
    olivebuild show tone --for adapter --row 12
    """
    from olivebuild.ui.shown_rows import to_lines

    check_no_target(ctx, "show")
    project = open_told(ctx, settings)
    request = request_of(project.graph, dataset, by, split, rows, count)
    shown = _ask(project, request)
    answer = {"data": request.data, "split": request.split, "for": request.by or None, **shown}
    if as_json:
        click.echo(json_text(answer, indent=2))
        return
    others = [name for name in trained_on(project.graph, request.data) if name != request.by]
    from olivebuild.ui.console import stdout

    console = stdout()
    coloured = console.is_terminal and not console.no_color
    for line in to_lines(answer, others, in_full=bool(rows), coloured=coloured):
        console.print(line)


def request_of(
    graph: Graph,
    target: str | None,
    by: str | None,
    split: str | None,
    rows: tuple[int, ...] = (),
    count: int = 3,
) -> Request:
    """Return what is to be shown of `target`: a data set or a split of one, None for the only one.

    Raises RecipeError for another target, and for a `by` that has no tokenizer.
    """
    from olivebuild.engine.shown_rows import Request

    name, part = _data_set(graph, target)
    by = by or next(iter(trained_on(graph, name)), "")
    return Request(
        data=name,
        split=split or part or "train",
        by=by,
        tokenizer=_tokenizer_of(graph, by) if by else "",
        rows=rows,
        count=count,
    )


def _data_set(graph: Graph, target: str | None) -> tuple[str, str]:
    """Return the name of a data set and of its split, "" for none. Raises RecipeError."""
    sets = [name for name, t in graph.targets.items() if t.kind == "dataset"]
    hint = f"data sets of this recipe are {', '.join(sets)}" if sets else "it has no data set"
    if target is None:
        if len(sets) != 1:
            fact = "the recipe has no data set" if not sets else "which data set is not said"
            raise RecipeError(fact, where=Where("command line"), hint=hint)
        return sets[0], ""
    name, _, part = target.partition(".")
    graph.one(name)
    where = graph.recipe.where(name)
    if name not in sets:
        fact = f"{name} is of kind {graph.targets[name].kind}, which has no rows"
        raise RecipeError(fact, where=where, hint=hint)
    if part and part not in SPLITS:
        fact = f"{name} has no split {part!r}"
        raise RecipeError(fact, where=where, hint=f"name {name}.train or {name}.test")
    return name, part


def trained_on(graph: Graph, data: str) -> list[str]:
    """Return the adapters that are trained on a data set, in the recipe's order."""
    names = []
    for name, target in graph.targets.items():
        fields: Any = graph.recipe.targets[name].fields if target.kind == "adapter" else None
        if fields and fields.model and fields.data and fields.data.target == data:
            names.append(name)
    return names


def _tokenizer_of(graph: Graph, by: str) -> str:
    """Return the target whose tokenizer makes rows tokens for `by`. Raises RecipeError."""
    graph.one(by)
    kind, fields = graph.targets[by].kind, graph.recipe.targets[by].fields
    if kind in TOKENIZERS:
        return by
    model = getattr(fields, "model", None) if kind == "adapter" else None
    if model is None or getattr(fields, "source", None) is not None:
        able = [
            name
            for name, target in graph.targets.items()
            if target.kind in (*TOKENIZERS, "adapter")
        ]
        raise RecipeError(
            f"{by} is of kind {kind}, by which no rows are trained"
            if kind != "adapter"
            else f"{by} comes from elsewhere, and is not trained here",
            where=Where(f"--for {by}"),
            hint=f"name one of {', '.join(able)}" if able else "leave it out",
        )
    return str(model.target)


def _ask(project: Project, request: Request) -> dict[str, Any]:
    """Return what a worker says of the rows, with notes on stderr. Builds what it needs."""
    from olivebuild.api.event import Event
    from olivebuild.cli.inference.subject import build_goals
    from olivebuild.engine import shown_rows
    from olivebuild.executors.local import LocalExecutor
    from olivebuild.ui.live import on_stderr

    planner, executor = project.planner, LocalExecutor()
    goals = [request.data, *([request.tokenizer] if request.tokenizer else [])]
    with on_stderr() as display:
        folder = None
        if request.tokenizer:
            folder = shown_rows.tokenizer_folder(
                planner, planner.plan(goals), executor, request.tokenizer, display
            )
    # What is fetched of a model without its weights needs no build of it.
    plan = build_goals(project, [request.data] if folder else goals)
    if request.tokenizer and not folder:
        folder = plan.states[request.tokenizer].folder
    plan = planner.plan(goals)
    what = f"rows by the tokenizer of {request.tokenizer}" if folder else "rows"
    started = Event("note", {"node": request.data, "text": f"reading {what}"})
    with on_stderr() as display:
        display(started)
        return shown_rows.ask(planner, plan, executor, request, folder, display)
