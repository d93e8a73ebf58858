"""Models in their own folders that lend tensors to results which others have made.

A result that was made here had its model's tensors looked up by its step. Of one that came from a
remote cache nobody has, and without them it could not be restored.
"""

from __future__ import annotations

from collections.abc import Iterable

from olivebuild.cache import tensor_locations
from olivebuild.cache.store import Store
from olivebuild.core.errors import BuildError, Damaged
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import State


class Lenders:
    """Finds where the tensors lie that results borrow, as soon as their model is here."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, str] = {}
        """Keys of results that are here, but not what they borrow -> the model that lends."""

    def expect(self, states: Iterable[State]) -> None:
        """Look for the lenders of results that have just come."""
        for state in states:
            if base := self._base_of(state):
                self._waiting[str(state.key)] = base

    def find(self, plan: Plan) -> set[str]:
        """Return the keys of the results whose lenders are here since the last call.

        The weights of a lender are read once. One that can't be read is none: what borrows from it
        is made here.
        """
        if not self._waiting:
            return set()
        folders = {
            state.outputs[""]: state.folder
            for state in plan.states.values()
            if state.folder and state.outputs and _is_reference(state)
        }
        keys = {key for key, base in self._waiting.items() if base in folders}
        for base in {self._waiting.pop(key) for key in keys}:
            try:
                tensor_locations.of_folder(self._store.root, base, folders[base])
            except (OSError, ValueError, BuildError):
                continue
        return keys

    def _base_of(self, state: State) -> str:
        """Return the model that lends to a result, "" if none does, or it is known where it is."""
        try:
            blob = state.trace.manifest if state.trace else ""
            base = self._store.manifest(blob).base if blob else ""
        except (Damaged, ValueError):
            return ""
        return "" if self._store.borrowed(base) else base


def _is_reference(state: State) -> bool:
    if state.node.referenced_folder is not None:
        return True
    return state.trace is not None and bool(state.trace.reference)
