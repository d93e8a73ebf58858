"""Rows as they are trained, for people to look at: asked of a worker, which alone knows tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from olivebuild.api.action import Action, ActionInput, Message, Outcome
from olivebuild.api.event import Event, Listener
from olivebuild.api.executor import Executor
from olivebuild.engine.pin import POLL_SECONDS, look, pin
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Verdict

RUNNER = "olivebuild.ml.training.shown_rows"


class Request(Struct, frozen=True, kw_only=True):
    """What is to be shown of the split `split` of a data set.

    `by`: the target that trains on it, or whose tokenizer is taken; "" for neither. `tokenizer`:
    the target that has the tokenizer. `rows`: numbers from 1 on, or none for the first `count`.
    """

    data: str
    split: str
    by: str = ""
    tokenizer: str = ""
    rows: tuple[int, ...] = ()
    count: int = 3


def tokenizer_folder(
    planner: Planner, plan: Plan, executor: Executor, name: str, listen: Listener
) -> Path | None:
    """Return the folder of a model's tokenizer; None where the model is to be built first.

    Of a model that was not fetched yet the small files are fetched, and no weights. Raises
    BuildError.
    """
    state = plan.states[name]
    if state.verdict is Verdict.FRESH:
        return state.folder
    source = state.node.source
    if state.node.kind != "model" or source is None or not source.looks_first:
        return None
    if planner.scan.pin(state.node) == "":
        pin(planner, executor, state.node, listen)
        planner.scan.lock.save()
    return look(planner, executor, state.node, listen)


def ask(
    planner: Planner,
    plan: Plan,
    executor: Executor,
    request: Request,
    folder: Path | None,
    listen: Listener,
) -> dict[str, Any]:
    """Return what the worker says of a data set that is built. Raises BuildError.

    `folder`: that of the tokenizer, None where there is none.
    """
    scratch = planner.store.scratch("show")
    (scratch / "out").mkdir()
    node = planner.graph.nodes[request.data]
    where = planner.scan.recipe.where(request.by or request.data)
    action = Action(
        node.name,
        node.target,
        node.kind,
        "",
        _fields(planner, request),
        _inputs(planner, plan, request, folder),
        {},
        str(planner.scan.recipe.folder),
        str(scratch / "out"),
        store=str(planner.store.root),
        places={"": [where.file, where.line, where.column, where.text]},
        runner=RUNNER,
        task="show",
        template_date=_date(planner, plan, request),
    )
    try:
        executor.start(action, planner.workspace.log_file(f"{request.data}.show"))
        return _answer(executor, node.name, listen)
    finally:
        executor.cancel()
        planner.store.discard(scratch)


def _answer(executor: Executor, node: str, listen: Listener) -> dict[str, Any]:
    """Return what a worker answers with; its notes and its progress go to `listen`."""
    while not isinstance(said := executor.wait(POLL_SECONDS), Outcome):
        if isinstance(said, Message):
            listen(Event(said.event, {"target": node, "node": node, **said.data}))
    if said.error:
        raise said.error
    assert said.result
    shown: dict[str, Any] = dict(said.result.provenance["shown"])  # type: ignore[call-overload]
    return shown


def _fields(planner: Planner, request: Request) -> dict[str, object]:
    """Return what the worker is asked. A model alone has an adapter's defaults."""
    fields: Mapping[str, object] | None = None
    if request.by:
        node = planner.graph.nodes[request.by]
        fields = node.fields if node.kind == "adapter" else {}
    rows: Sequence[int] = request.rows
    return {"fields": fields, "rows": list(rows), "count": request.count}


def _inputs(
    planner: Planner, plan: Plan, request: Request, folder: Path | None
) -> dict[str, ActionInput]:
    data = plan.states[request.data]
    assert data.folder
    path = data.folder / data.node.outputs[request.split]
    # Sequences are held out of what is trained on alone.
    role = "data" if request.split == "train" else "eval"
    inputs = {role: ActionInput(str(data.folder), str(path), "dataset", request.data)}
    if folder:
        model = planner.graph.nodes[request.tokenizer]
        inputs["model"] = ActionInput(
            str(folder),
            str(folder),
            model.kind,
            request.tokenizer,
            trust_remote_code=planner.graph.trusts_remote_code(model),
        )
    return inputs


def _date(planner: Planner, plan: Plan, request: Request) -> str:
    """Return the date that the chat template is told; "" where it does not read the clock."""
    if not request.tokenizer or not plan.lookups[request.tokenizer].outputs:
        return ""
    return planner.dating.date_of(request.tokenizer, plan.lookups)
