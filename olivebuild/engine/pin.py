"""Pinning of remote sources, and a look at the small files of hub models.

Workers do both, since the network's libraries take long to import.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from olivebuild.api.action import Action, Outcome
from olivebuild.api.event import Event, Listener
from olivebuild.api.executor import Executor
from olivebuild.api.node import Node
from olivebuild.core.errors import BuildError
from olivebuild.formats.source import Source
from olivebuild.planner.plan import Planner
from olivebuild.planner.project import open_project
from olivebuild.planner.states import State, Verdict
from olivebuild.recipe.file import FILE_NAME
from olivebuild.recipe.lockfile import Lockfile

POLL_SECONDS = 0.1
RUNNER = "olivebuild.ml.kinds.pin"

BROUGHT = ("model", "merged")
"""The kinds of which a source may be far away, and is looked at again when it lies here."""


def pin(planner: Planner, executor: Executor, node: Node, listen: Listener) -> str:
    """Resolve a node's remote source, and write its pin into the lock file's data.

    Raises BuildError.
    """
    source = node.source
    assert source
    planner.store.check_writable(f"{source.text} is not pinned yet")
    listen(
        Event("note", {"target": node.target, "node": node.name, "text": f"pinning {source.text}"})
    )
    value = _asked(planner, executor, node, "pin")
    planner.scan.lock.pin(source.text, value)
    return value


def look(planner: Planner, executor: Executor, node: Node, listen: Listener) -> Path:
    """Fetch the small files of a pinned hub model, and return their folder. Raises BuildError.

    With them the plan's checks of models run before its weights are fetched. Of a data set all
    files come, and one that is a file alone is returned as that.
    """
    source = node.source
    assert source
    planner.store.check_writable(f"{node.target} is not in it and would have to be fetched")
    if node.kind != "dataset":
        text = f"looking at the small files of {source.text}, before its weights are fetched"
        listen(Event("note", {"target": node.target, "node": node.name, "text": text}))
    return Path(_asked(planner, executor, node, "look"))


def _asked(planner: Planner, executor: Executor, node: Node, task: str) -> str:
    scratch = planner.store.scratch(task)
    (scratch / "out").mkdir()
    where = planner.scan.recipe.where(node.target, ("source",))
    places: dict[str, list[object]] = {"": [where.file, where.line, where.column, where.text]}
    recipe_folder, pinned = str(planner.scan.recipe.folder), planner.scan.pin(node) or ""
    names, out = (node.name, node.target, node.kind, ""), str(scratch / "out")
    action = Action(
        *names,
        node.fields,
        {},
        {},
        recipe_folder,
        out,
        store=str(planner.store.root),
        pin=pinned,
        sha256=planner.scan.lock.digests.get(node.source.text, {}) if node.source else {},
        places=places,
        runner=RUNNER,
        task=task,
    )
    try:
        executor.start(action, planner.workspace.log_file(node.name))
        while not isinstance(outcome := executor.wait(POLL_SECONDS), Outcome):
            pass
        if outcome.error:
            raise outcome.error
        assert outcome.result
        return str(outcome.result.provenance["folder" if task == "look" else "pin"])
    finally:
        executor.cancel()
        planner.store.discard(scratch)


def pin_all(
    planner: Planner,
    executor: Executor,
    goals: Iterable[str],
    listen: Listener,
) -> list[tuple[Node, BuildError]]:
    """Pin remote sources that have no pin, before any key is made.

    Return the nodes that failed, with their errors: a token that is missing is told of all models
    at once.
    """
    failed: list[tuple[Node, BuildError]] = []
    for node in planner.graph.closure(goals):
        if planner.scan.pin(node) == "":
            try:
                pin(planner, executor, node, listen)
            except BuildError as e:
                failed.append((node, e))
    planner.scan.lock.save()
    return failed


def is_to_be_fetched(state: State) -> bool:
    """Return whether a pinned model of the hub is not here yet."""
    source = state.node.source
    if state.verdict is not Verdict.STALE or not state.key:
        return False
    return state.node.kind in BROUGHT and source is not None and source.looks_first


# -- before there is a recipe


NAME = "source"
TARGETS = {"model": "{kind: model, source: %s}", "dataset": "{kind: dataset, source: %s, text: x}"}
"""Kind -> a target of that kind which holds a source."""


@contextmanager
def recipe_of(text: str) -> Iterator[Path]:
    """Yield a folder that this recipe is in until the end."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="olivebuild-init-") as name:
        folder = Path(name)
        (folder / FILE_NAME).write_text(text, "utf-8")
        yield folder


def first_look(
    source: Source, kind: str, lock: Lockfile, executor: Executor, listen: Listener
) -> Path:
    """Return the file or folder that a remote source of a kind names, and note its pin in `lock`.

    Of a model the small files come, of a data set all files. Raises BuildError.
    """
    target = TARGETS[kind] % json.dumps(source.text, ensure_ascii=False)
    with recipe_of(f"targets:\n  {NAME}: {target}\n") as folder:
        project = open_project(folder, None)
        (node,) = project.graph.closure([NAME])
        if pinned := lock.sources.get(source.text):
            project.lock.pin(source.text, pinned)
        else:
            lock.pin(source.text, pin(project.planner, executor, node, listen))
        return look(project.planner, executor, node, listen)
