"""A project: the graph, workspace, store and lock file of a recipe, opened together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from olivebuild.cache.store import Store
from olivebuild.cache.traces import Traces
from olivebuild.core import hashing
from olivebuild.core.errors import RecipeError, StoreError
from olivebuild.core.fs import portable_names
from olivebuild.data import drops
from olivebuild.planner.incremental import Incremental, recall
from olivebuild.planner.invalidation import graph_stamp
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.scan import Scan
from olivebuild.planner.states import State
from olivebuild.planner.workspace import Workspace
from olivebuild.recipe import file as recipes
from olivebuild.recipe.file import Recipe
from olivebuild.recipe.graph import Graph, build_graph
from olivebuild.recipe.graph_cache import graph_of
from olivebuild.recipe.lockfile import FILE_NAME as LOCK_NAME
from olivebuild.recipe.lockfile import Lockfile
from olivebuild.snapshot import StatComparison

if TYPE_CHECKING:
    from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
    from olivebuild.metrics.gates import Judgement


class Project(Struct):
    graph: Graph
    planner: Planner
    before: Incremental | None = None
    """The last build's knowledge; with it, the graph has only what has changed and its inputs."""

    def goals(self, asked: Iterable[str]) -> list[str]:
        return self.before.plan.goals if self.before else self.graph.goals(asked)

    @property
    def workspace(self) -> Workspace:
        return self.planner.workspace

    @property
    def lock(self) -> Lockfile:
        return self.planner.scan.lock

    def dropped_rows(self, states: Iterable[State]) -> list[str]:
        """Return lines on the rows that the last run dropped, of nodes whose last run failed."""
        names = [
            s.node.name for s in states if s.trace is None and s.node.referenced_folder is None
        ]
        return [
            line
            for name in names
            for line in drops.all_told(drops.left_by(self.workspace.log_of(name)))
        ]

    def metrics(self, plan: Plan, target: str) -> Mapping[str, Any]:
        trace = plan.states[target].trace
        return trace.metrics if trace else {}

    def judge(self, measured: Mapping[str, Mapping[str, Any]]) -> list[Judgement]:
        """Return the judgements of targets' gates; targets without metrics are not judged."""
        gated = {
            name: metrics
            for name, metrics in measured.items()
            if metrics and self.graph.targets[name].gated
        }
        if not gated:
            return []
        from olivebuild.metrics.gates import judge
        from olivebuild.metrics.records import read_metrics

        judged = []
        for name, metrics in gated.items():
            target = self.graph.recipe.targets[name]
            try:
                gates = target.step.gates(target.fields)
                judged += judge(name, gates, read_metrics(metrics, name))
            except RecipeError as e:
                e.where = self.graph.recipe.where(name, ("gates",))
                raise
        return judged

    def diagnose(self, plan: Plan) -> tuple[Diagnostic, ...]:
        """Return the diagnostics of all targets of a plan that have a result, errors first."""
        from olivebuild.metrics.diagnostics.traces import of_traces

        def metrics_of(target: str) -> Mapping[str, Any]:
            state = plan.states[target]
            # What a partial plan did not read again has a key and no trace.
            trace = state.trace or (self.planner.traces.get(state.key) if state.key else None)
            return trace.metrics if trace else {}

        return of_traces({n: self.graph.targets[n].kind for n in plan.targets}, metrics_of)


def cache_folder() -> Path:
    """Return $OLIVEBUILD_CACHE, or the platform's folder for caches."""
    folder = os.environ.get("OLIVEBUILD_CACHE")
    if folder:
        return Path(folder).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("olivebuild", appauthor=False)


def results_folder(folder: Path) -> Path | None:
    """Return a folder below $OLIVEBUILD_BUILD for the recipes in `folder` alone.

    None where the variable is not set. Raises StoreError where the folder can't be made.
    """
    parent = os.environ.get("OLIVEBUILD_BUILD")
    if not parent:
        return None
    try:
        root = Path(parent).resolve()
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as e:
        raise StoreError(
            f"no results can be put there: {e}",
            where="OLIVEBUILD_BUILD",
            hint="name a folder that you may write",
        ) from None
    return root / f"{folder.resolve().name or 'root'}-{hashing.of_bytes(str(folder.resolve()))[:8]}"


def _find(folder: Path, file: str | None) -> Path:
    if not folder.is_dir():
        raise RecipeError(
            f"{folder} is not a folder", where="-C", hint="name the folder that holds the recipe"
        )
    path = recipes.find(folder, file)
    if not portable_names.is_text(place := str(path.resolve())):
        fact = f"the name {place!r} is not UTF-8 text"
        hint = "rename the folder, or the file: the name goes into the history of builds"
        raise RecipeError(fact, hint=hint)
    return path


def open_graph(folder: Path, file: str | None, settings: Iterable[str] = ()) -> Graph:
    """Return the graph of a recipe, without opening the store. Raises RecipeError."""
    return build_graph(recipes.load(_find(folder, file), settings))


def open_project(folder: Path, file: str | None, settings: Iterable[str] = ()) -> Project:
    """Open a project.

    Raises RecipeError for the recipe and the lock file, StoreError for the cache.
    """
    return _open(recipes.read(_find(folder, file), settings), None)


def open_changed(
    folder: Path,
    file: str | None,
    settings: Iterable[str],
    asked: Iterable[str],
    seen: StatComparison | None,
) -> Project:
    """Open the part of a project that has changed since the last build, if that is known.

    Otherwise open all of it. Raises as `open_project` does.
    """
    recipe = recipes.read(_find(folder, file), settings)
    return _open(recipe, recall(recipe, _state(recipe), cache_folder(), asked, seen))


def _stem(recipe: Recipe) -> str:
    return "" if recipe.file.name == recipes.FILE_NAME else recipe.file.stem


def _state(recipe: Recipe) -> Path:
    return recipe.folder / ".olivebuild" / _stem(recipe)


def _open(recipe: Recipe, before: Incremental | None) -> Project:
    workspace = Workspace(recipe.folder, _stem(recipe), results_folder(recipe.folder))
    # Before anything is written there.
    workspace.check()
    graph = before.graph if before else graph_of(recipe, _state(recipe), graph_stamp(recipe))
    lock = Lockfile(recipe.folder / LOCK_NAME)
    if not _stem(recipe) and (name := workspace.shared_with_another(graph.every or graph.targets)):
        fact = (
            f"the target {name} and the targets of {name}.yaml would lie in one folder, "
            f"build/{name}"
        )
        raise RecipeError(fact, where=recipe.where(name), hint="give one of them another name")
    store = Store(cache_folder())
    scan = Scan(recipe, workspace.memo, lock, workspace.state)
    planner = Planner(
        graph=graph,
        scan=scan,
        store=store,
        traces=Traces(store),
        workspace=workspace,
        frozen=before.frozen if before else frozenset(),
    )
    return Project(graph, planner, before)
