"""Invalidation of the files that save time.

They are the node database (node_db.py), the graph cache (recipe/graph_cache.py), and the answer to
a build of which nothing has changed (snapshot.py).

Each fact below decides what a build does or prints, and has a guard in each of the three. A seal, a
stamp or a key holds the fact itself, so that another fact is another name. A stat is compared with
the disk. `global` stats concern every node, and when one differs, everything is looked up. A dash:
the fact makes no difference there.

    fact                               node database     graph cache  no-op answer
    ---------------------------------  ----------------  -----------  ----------------
    text of the recipe                 plan_seal         graph_stamp  global stats
    --set                              plan_seal         not kept     key
    targets that were asked for        plan_seal         -            key
    other words of the command         -                 -            key
    terminal, colours, locale          -                 -            key
    working folder, PLAN_VARIABLES     plan_seal         -            key
    interpreter, sys.path, boot, CPUs  plan_seal         -            key
    FORMAT of the files                plan_seal         -            key
    the user who kept it               plan_seal         seal         -
    our own sources                    global stats      graph_stamp  global stats
    other packages' kinds              global stats      not kept     global stats
    lock file                          global stats      -            global stats
    installed libraries                global stats      -            global stats
    what a node reads                  node_stats        -            node_stats
    where more files may match         node_stats        -            answer_stats
    a node's trace, manifest, build/   node_stats        -            node_stats
    metrics, machine                   always looked up  -            answer_stats
    numerics: strict                   always looked up  -            answer_variables
    variables that a node is keyed on  always looked up  -            answer_variables
    a change within the clock's tick   not kept          -            not kept

The functions follow the columns. `key` is `snapshot.command_key`, and `seal` is seal.py's: an
answer is only printed, but nodes and graphs say what is run. With a node database, an answer
rests on its stats, and holds those alone that the database has not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from olivebuild import snapshot
from olivebuild.api.node import is_builtin
from olivebuild.core import code_version, hashing, numerics
from olivebuild.core.fs.files import is_past
from olivebuild.core.seal import seal
from olivebuild.planner.node_db import Block, NodeDb
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State
from olivebuild.recipe.file import Recipe
from olivebuild.snapshot import Stat

# The node database


def plan_seal(recipe: Recipe, store: Path, asked: Iterable[str]) -> str:
    """Return a seal on all but files on which a plan depends; empty where this user has no key.

    `asked`: the targets of the command line, which stand for the goals. Our sources are among the
    files.
    """
    facts = [
        recipe.file.name,
        hashing.of_bytes(recipe.text),
        recipe.settings,
        list(asked),
        str(store),
        snapshot.surroundings(),
    ]
    return seal(hashing.canonical_json(facts).encode())


def global_paths(planner: Planner, plan: Plan) -> set[Path]:
    """Return the files and folders on which every node depends.

    Recipe, lock file, libraries, our own sources and those of other packages' kinds.
    """
    recipe = planner.graph.recipe
    paths = {recipe.file, planner.scan.lock.file}
    for library in {library for state in plan.states.values() for library in state.node.libraries}:
        paths |= _distribution_paths(library)
    paths |= _source_paths()
    paths |= {Path(p) for p in sys.path if p and os.path.isdir(p)}
    if not all(map(is_builtin, {state.node.kind for state in plan.states.values()})):
        # A kind of another package says what its code says, and that was imported to make the
        # graph.
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        paths |= {Path(file) for file in files if file}
    return {path.absolute() for path in paths}


def _source_paths() -> set[Path]:
    """Return our own source files, and the folders to which one may be added."""
    root = Path(code_version.ROOT)
    paths = {root}
    for path in root.rglob("*"):
        if path.suffix in (".py", "") and "__pycache__" not in path.parts:
            paths.add(path)
    return paths


def _distribution_paths(library: str) -> set[Path]:
    """Return where a library is installed, under each name that it has.

    And what tells its version.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    from olivebuild.core.host import VARIANTS

    paths: set[Path] = set()
    for name in (library, *VARIANTS.get(library, ())):
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        paths.add(Path(str(installed.locate_file(""))))
        if metadata := getattr(installed, "_path", None):
            paths |= {Path(metadata), Path(metadata) / "METADATA"}
    return paths


def node_stats(planner: Planner, state: State, looked: int, scanned: int) -> Block:
    """Return the stats of all on which a node depends.

    Of the files that it reads as they were at `scanned`, of its results as they were at `looked`,
    in the file system's nanoseconds.

    Empty for a node that each build looks up: its metrics may be asked for, or the machine or the
    environment may have changed, or a file changed within the clock's tick.
    """
    trace, node = state.trace, state.node
    by_itself = node.machine_bound or node.strict or node.keyed or node.max_age is not None
    if trace and (trace.metrics or by_itself):
        return {}
    paths = sorted(map(str, result_paths(planner, state)))
    results: Block = {path: snapshot.stat_of(path) for path in paths}
    read = {str(path): stat for path, stat in sorted(planner.scan.seen_for(node).items())}
    is_past = all_past(results, looked) and all_past(read, scanned)
    return {**results, **read} if is_past else {}


def result_paths(planner: Planner, state: State) -> set[Path]:
    """Return where a node's trace, manifest and files in build/ lie."""
    paths: set[Path] = set()
    if state.trace:
        paths.add(planner.store.path(state.trace.key).with_suffix(".trace"))
        if state.trace.manifest:
            paths.add(planner.store.path(state.trace.manifest))
    if state.node.name == state.node.target:
        place = planner.workspace.output_folder(state.node.target)
        paths |= {place, *place.rglob("*")}
    return {path.absolute() for path in paths}


def all_past(stats: Mapping[str, Stat | None], moment: int) -> bool:
    """Return whether a change at `moment` or later would give each file another stat."""
    return all(stat is None or is_past(stat, moment) for stat in stats.values())


# The graph cache


def graph_stamp(recipe: Recipe) -> str:
    """Return what a graph was made from: the recipe's text, and our own sources."""
    return hashing.of_json([recipe.file.name, recipe.text, code_version.code()])


# The answer to a build of which nothing has changed


def answer_stats(planner: Planner, plan: Plan, db: NodeDb | None) -> Block:
    """Return the stats of all files and folders on which a plan, and so the answer, depends.

    But for those that the node database has.
    """
    paths = {planner.graph.recipe.folder} | (set() if db else global_paths(planner, plan))
    for path in planner.scan.depends_on():
        # A file that is added in place of a missing one changes its folder.
        paths |= {path.absolute(), path.parent.absolute()}
    names = [db.header.names[n] for n in db.header.always_check] if db else list(plan.states)
    for name in plan.states.keys() & names:
        paths |= result_paths(planner, plan.states[name])
    kept, root = (db.all_paths(), db.root) if db else (set[bytes](), b"")
    return {
        path: snapshot.stat_of(path)
        for path in sorted(map(str, paths))
        if os.fsencode(path).removeprefix(root) not in kept
    }


def answer_variables(plan: Plan) -> list[str]:
    """Return the variables of the environment that count for a node.

    Such nodes are looked up in each build, so the plan has them.
    """
    names = set[str]()
    for state in plan.states.values():
        names.update(state.node.keyed)
        if state.node.strict:
            names.update(numerics.SETTINGS, numerics.THREADS)
    return sorted(names)
