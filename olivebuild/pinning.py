"""Find out what a remote source's name stands for today, and pin it. Runs a worker, since it needs the network's libraries."""

from __future__ import annotations

from collections.abc import Iterable

from olivebuild.errors import BuildError
from olivebuild.events import Event, Listener
from olivebuild.executor import Action, Executor, Outcome
from olivebuild.node import Node
from olivebuild.plan import Planner

POLL_SECONDS = 0.1


def pin(planner: Planner, executor: Executor, node: Node, listen: Listener) -> str:
    """Ask the world what a node's remote source is today, and write it into the lock file's data. Raises BuildError."""
    source = node.source
    assert source
    planner.store.check_writable(f"{source.text} is not pinned yet")
    scratch = planner.store.scratch("pin")
    (scratch / "out").mkdir()
    where = planner.scan.recipe.where(node.target, ("source",))
    place: list[object] = [where.file, where.line, where.column, where.text]
    recipe_folder = str(planner.scan.recipe.folder)
    action = Action(node.name, node.target, node.kind, "", node.fields, {}, {}, recipe_folder, str(scratch / "out"), places={"": place}, task="pin")
    listen(Event("note", {"target": node.target, "node": node.name, "text": f"pinning {source.text}"}))
    try:
        executor.start(action, planner.workspace.log_file(node.name))
        while not isinstance(outcome := executor.wait(POLL_SECONDS), Outcome):
            pass
        if outcome.error:
            raise outcome.error
        assert outcome.result
        value = str(outcome.result.provenance["pin"])
        planner.scan.lock.pin(source.text, value)
        return value
    finally:
        executor.cancel()
        planner.store.discard(scratch)


def pin_all(planner: Planner, executor: Executor, goals: Iterable[str], listen: Listener, *, keep_going: bool) -> list[tuple[Node, BuildError]]:
    """Find out what unpinned remote sources stand for, before any key is made. What could not be found out: the first of it, or all."""
    failed: list[tuple[Node, BuildError]] = []
    for node in planner.graph.closure(goals):
        if planner.scan.pin(node) == "" and (keep_going or not failed):
            try:
                pin(planner, executor, node, listen)
            except BuildError as e:
                failed.append((node, e))
    planner.scan.lock.save()
    return failed
