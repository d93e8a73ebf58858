"""Checks before and after a build, and the sweep of files that killed builds left."""

from __future__ import annotations

from collections.abc import Container, Iterable

from olivebuild.cache.store import SMALL_FILE_DIRS, Store
from olivebuild.core.errors import RecipeError, StepError
from olivebuild.core.fs import locks
from olivebuild.core.fs.files import sweep_abandoned
from olivebuild.core.fs.locks import try_lock
from olivebuild.engine.remote.elsewhere import Elsewhere, without_machine
from olivebuild.engine.scheduler import ResourcePool
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import Demand, Verdict
from olivebuild.planner.workspace import Workspace


def check_locks(store: Store, workspace: Workspace) -> None:
    """Raise StoreError where files can't be locked: without locks two builds harm each other."""
    for folder in [workspace.state] if store.read_only else [workspace.state, store.root / "locks"]:
        locks.check(folder)


def check_resources(
    planner: Planner, pool: ResourcePool, goals: Iterable[str], elsewhere: Elsewhere
) -> None:
    """Raise RecipeError for a target that takes more of a resource than there is.

    What is made elsewhere asks the machine there.
    """
    for node in planner.graph.closure(goals):
        if name := pool.exceeded_by(without_machine(node) if node in elsewhere else node):
            where = planner.scan.recipe.where(node.target, ("resources", name))
            limit = pool.limit(name)
            fact = f"{node.target} takes more {name} than there is: " + (
                f"{limit / 1e9:g} GB" if limit >= 1e6 else f"{limit:g}"
            )
            raise RecipeError(
                fact,
                where=where,
                hint=f"--resource {name}=AMOUNT, or `resources:` in the recipe, says how much "
                "there is",
            )


def check_made(plan: Plan, spared: Container[str]) -> None:
    """Raise StepError when something is left to do after a build, and nothing says why.

    `spared`: nodes that need not be made.
    """
    for name, state in plan.states.items():
        is_left = state.demand is Demand.FOLDER and state.verdict is not Verdict.FRESH
        if is_left and name not in spared:
            raise StepError(
                f"{state.node.target} could not be made, and no step says why",
                hint="this is a fault of olivebuild; please report it",
            )


def sweep(store: Store) -> None:
    """Delete scratch folders whose keys' locks are free, and incomplete files of killed builds."""
    if store.read_only:
        return
    for name in SMALL_FILE_DIRS:
        sweep_abandoned(store.root / name)
    for folder in (store.root / "tmp").iterdir():
        key = folder.name.partition("-")[0]
        lock = try_lock(store.lock_file(key)) if len(key) == 32 else None
        if lock:
            store.discard(folder)
            lock.close()
