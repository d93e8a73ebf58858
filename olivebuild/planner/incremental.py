"""Builds after an edit.

What has not changed since the last build of the same goals is neither looked up nor read.

The nodes of which a stat differs, what may change with them, and what all these are made from are a
graph of their own (`Incremental`); the rest of the recipe does not exist for the build. Where
anything but a file of a node has changed (the recipe, the goals, a version), everything is looked
up; invalidation.py has the whole list. A build that ends with all fresh writes what it knows for
the next one (node_db.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from olivebuild import snapshot
from olivebuild.api.node import Outline
from olivebuild.core.fs.files import filesystem_time, wait_for_tick
from olivebuild.planner.invalidation import all_past, global_paths, node_stats, plan_seal
from olivebuild.planner.node_db import Block, Header, NodeData, NodeDb, NodeRow, packed
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Demand, Lookup, State, Verdict
from olivebuild.planner.workspace import LAST
from olivebuild.recipe.file import Recipe
from olivebuild.recipe.graph import Graph
from olivebuild.snapshot import SEEN, Patch, StatComparison


class Incremental(msgspec.Struct, kw_only=True):
    """The part of a recipe's graph and plan that an edit may change.

    `plan` has the nodes that `changed`, those that may change with them, and those that these are
    made from (`frozen`), all as the last build left them.
    """

    graph: Graph
    plan: Plan
    changed: set[str]
    frozen: frozenset[str]
    db: NodeDb


def recall(
    recipe: Recipe,
    state: Path,
    store: Path,
    asked: Iterable[str],
    comparison: StatComparison | None = None,
) -> Incremental | None:
    """Return what has changed since the last build of these targets; None where that can't be told.

    `state`: the recipe's folder of the last build's files. `comparison`: the one that told that
    something has changed, if there was one.
    """
    file = str(state / SEEN)
    seen = comparison if comparison and comparison.file == file else snapshot.open_seen(file)
    # Without the last results, all nodes have to be looked up.
    if seen is None or not (state / LAST).exists():
        return None
    try:
        db = NodeDb.read(state, seen)
        seal = plan_seal(recipe, store, asked)
        if not seal or db.header.seal != seal:
            return None
        changed = db.changed_rows(seen)
        return None if changed is None else _part(recipe, db, changed)
    except (OSError, ValueError, IndexError, KeyError, msgspec.MsgspecError, RecursionError):
        return None


def _part(recipe: Recipe, db: NodeDb, changed: set[int]) -> Incremental:
    """Return the part of the graph that the changed nodes reach."""
    rows: dict[int, NodeRow] = {}
    affected = _reached(db, rows, changed, lambda row: row.users)
    numbers = _reached(db, rows, affected, lambda row: (number for number, _ in row.inputs))
    part = {number: rows[number] for number in sorted(numbers)}
    names = db.header.names
    return Incremental(
        graph=_graph(recipe, db.header, part),
        plan=_plan(db.header, part),
        changed={names[number] for number in changed},
        frozen=frozenset(names[number] for number in numbers - affected),
        db=db,
    )


def _reached(
    db: NodeDb,
    rows: dict[int, NodeRow],
    numbers: Iterable[int],
    neighbours: Callable[[NodeRow], Iterable[int]],
) -> set[int]:
    """Return these nodes, their neighbours, the neighbours of these, and so on.

    Each node's row is read once, into `rows`.
    """
    reached, left = set[int](), list(numbers)
    while left:
        number = left.pop()
        if number not in reached:
            reached.add(number)
            if number not in rows:
                rows[number] = db.row(number)
            left += neighbours(rows[number])
    return reached


def _graph(recipe: Recipe, header: Header, rows: Mapping[int, NodeRow]) -> Graph:
    targets = {row.outline.name: row.outline for row in rows.values()}
    graph = Graph(recipe, targets, list(header.default), header.matrices, header.limits)
    graph.every = header.names
    for row in rows.values():
        graph.nodes[row.node.name] = row.node
        graph.inputs[row.node.name] = [
            (edge, rows[number].node, output)
            for edge, (number, output) in zip(row.node.edges, row.inputs, strict=True)
        ]
    return graph


def _plan(header: Header, rows: Mapping[int, NodeRow]) -> Plan:
    plan = Plan(goals=list(header.goals))
    for number, row in rows.items():
        # The header has the key and the seconds of a patch, too.
        lookup = Lookup(
            node=row.node,
            verdict=Verdict.FRESH,
            key=header.keys[number] or None,
            outputs=row.outputs,
            seconds=header.seconds[number],
            from_db=True,
        )
        plan.lookups[row.node.name] = lookup
        demand = Demand.FOLDER if row.needed else Demand.NOTHING
        state = State.of(lookup, demand=demand, publish_when_built=row.publish_when_built)
        folder = Path(row.folder) if row.folder else None
        plan.states[row.node.name] = msgspec.structs.replace(state, folder=folder)
    plan.all_targets = tuple(dict.fromkeys(header.target_of))
    elsewhere = [number for number in range(len(header.names)) if number not in rows]
    plan.keys_elsewhere = {header.names[n]: header.keys[n] for n in elsewhere if header.keys[n]}
    plan.seconds_elsewhere = sum(header.seconds[number] or 0.0 for number in elsewhere)
    return plan


def remember(
    planner: Planner,
    plan: Plan,
    asked: Iterable[str],
    before: Incremental | None,
    started: int,
    touched: set[str],
) -> NodeDb | None:
    """Write what a build knows at its end, when all is fresh, and return it.

    `touched`: the nodes that it made or put into build/. `started`: the file system's time before
    the first look, in nanoseconds: a file that was changed at that time or later may have changed
    after it was looked at.
    """
    state, later = planner.workspace.state, started
    if touched:
        # What was made meanwhile is looked at once more, when its times are past.
        wait_for_tick(state, filesystem_time(state))
        later = filesystem_time(state)
        planner.workspace.memo.start_scan()
        planner.update(plan, touched)
    if any(s.verdict is not Verdict.FRESH for s in plan.states.values()):
        return None
    blocks = {
        name: node_stats(planner, s, later if name in touched else started, started)
        for name, s in plan.states.items()
        if not s.from_db
    }
    if before and not blocks:
        return before.db
    # Losing it costs time only.
    with contextlib.suppress(OSError, UnicodeEncodeError):
        if before:
            return before.db.append(_patches(before.db, plan, blocks), state)
        if db := _whole(planner, plan, asked, blocks, started):
            return db.write(state)
    return None


def _whole(
    planner: Planner, plan: Plan, asked: Iterable[str], blocks: Mapping[str, Block], started: int
) -> NodeDb | None:
    """Return the database of all nodes; None when a file changed that concerns every one."""
    graph = planner.graph
    paths = sorted(map(str, global_paths(planner, plan)))
    common: Block = {path: snapshot.stat_of(path) for path in paths}
    if not all_past(common, started):
        return None
    root = os.fsencode(os.path.join(graph.recipe.folder.absolute(), ""))
    numbers = {name: number for number, name in enumerate(plan.states)}
    nodes = []
    for name, state in plan.states.items():
        row = _row(
            state,
            graph.targets[state.node.target],
            tuple((numbers[source.name], output) for _, source, output in graph.inputs[name]),
            tuple(numbers[user] for _, user in graph.users[name] if user in numbers),
        )
        nodes.append(NodeData(*packed(blocks[name], root), msgspec.json.encode(row)))
    seal = plan_seal(graph.recipe, planner.store.root, asked)
    always_check = tuple(numbers[name] for name, block in blocks.items() if not block)
    return NodeDb.of(_header(graph, plan, seal, always_check), root, common, nodes)


def _header(graph: Graph, plan: Plan, seal: str, always_check: tuple[int, ...]) -> Header:
    states = plan.states.values()
    return Header(
        seal=seal,
        goals=tuple(plan.goals),
        default=tuple(graph.default),
        matrices=graph.matrices,
        limits=graph.limits,
        names=tuple(plan.states),
        target_of=tuple(s.node.target for s in states),
        keys=tuple(s.key or "" for s in states),
        seconds=tuple(s.seconds for s in states),
        always_check=always_check,
        light=all(s.node.kind == "command" for s in states),
    )


def _patches(db: NodeDb, plan: Plan, blocks: Mapping[str, Block]) -> dict[int, Patch]:
    """Return patches for nodes that are not as the database has them.

    Of those that were looked up.
    """
    patches: dict[int, Patch] = {}
    for number, name in enumerate(db.header.names):
        if name in blocks:
            was = db.row(number)
            row = _row(plan.states[name], was.outline, was.inputs, was.users)
            data = NodeData(*packed(blocks[name], db.root), msgspec.json.encode(row))
            if data != db.data(number):
                patches[number] = db.patch(number, data)
    return patches


def _row(
    state: State, outline: Outline, inputs: tuple[tuple[int, str], ...], users: tuple[int, ...]
) -> NodeRow:
    return NodeRow(
        node=state.node,
        outline=outline,
        inputs=inputs,
        users=users,
        outputs=dict(state.outputs or {}),
        folder=str(state.folder or ""),
        needed=state.demand is Demand.FOLDER,
        publish_when_built=state.publish_when_built,
        key=state.key or "",
        seconds=state.seconds,
    )
