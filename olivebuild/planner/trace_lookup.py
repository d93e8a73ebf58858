"""Lookup of nodes: the key of a node from files and machine, and the result under it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from olivebuild.api.node import Node
from olivebuild.cache.key import Part, Reason, compare, key_of
from olivebuild.cache.traces import Trace, Traces
from olivebuild.core.errors import InputError
from olivebuild.planner.parts import parts_of
from olivebuild.planner.scan import Scan
from olivebuild.planner.states import Lookup, Verdict
from olivebuild.planner.template_dates import Dating
from olivebuild.planner.workspace import LastBuild, Workspace
from olivebuild.recipe.graph import Graph

MADE_AT = "made_at"
"""The key of a trace's provenance with the time when it was made, in seconds since 1970."""
ONLY_FOR = "only_for"
"""The key of a trace's provenance with contents of inputs that are not keyed, a list of digests
each: those to which alone it counts.
"""
COUNTS_UNTIL = "counts_until"
"""The key of a trace's provenance with the time, in seconds since 1970, to which it counts for all
contents: of a measurement on a machine that was as busy the time before.
"""
MOST_CONTENTS = 20
DAY = 86400.0


class TraceFinder(Struct, frozen=True, kw_only=True):
    """Looks up nodes in the traces; files and machine are as `scan` first saw them."""

    graph: Graph
    scan: Scan
    traces: Traces
    workspace: Workspace
    dating: Dating
    refused: dict[str, Trace] = field(default_factory=dict)
    """key -> a result that counts for inputs of another content alone"""

    def look_up(self, node: Node, lookups: Mapping[str, Lookup]) -> Lookup:
        """Return the key of a node and the result under it, given the lookups of its inputs.

        What can't be read is a fault of the node.
        """
        last, trace = self._last_build(node)
        seconds = trace.seconds if trace else None
        try:
            if node.referenced_folder is not None:
                return self._look_up_folder(node, seconds)
            if reasons := self._lacks(node, lookups):
                return self._look_up_without_key(node, reasons, seconds)
            parts = self._parts(node, lookups)
        except InputError as e:
            e.target = e.target or node.target
            reasons = (Reason("fault", e.fact),)
            return Lookup(node=node, verdict=Verdict.BROKEN, reasons=reasons, fault=e)
        key = key_of(parts)
        other = self._refuse_for_content(node, key, lookups)
        result = self.trace(node, key)
        if result is None:
            reasons = other or self._why_old(node, key) or _why_stale(last, trace, parts)
            return Lookup(
                node=node,
                verdict=Verdict.STALE,
                key=key,
                parts=parts,
                reasons=reasons,
                seconds=seconds,
            )
        return Lookup(
            node=node,
            verdict=Verdict.FRESH,
            key=key,
            parts=parts,
            trace=result,
            outputs=dict(result.outputs),
            folder=Path(result.reference) if result.reference else None,
            seconds=result.seconds,
        )

    def _last_build(self, node: Node) -> tuple[LastBuild | None, Trace | None]:
        """Return the last result of a node in this workspace, whatever its key, and its trace."""
        last = self.workspace.last.get(node.name)
        return last, self.traces.get(last.key) if last else None

    def _look_up_folder(self, node: Node, seconds: float | None) -> Lookup:
        """Look up a model that is used where it lies. Raises InputError."""
        path = self.scan.referenced(node)
        content = self.scan.model(node, path, code=node.trusts_remote_code)
        return Lookup(
            node=node,
            verdict=Verdict.FRESH,
            key=key_of([Part("file", "content", content)]),
            outputs={"": content},
            folder=path,
            seconds=seconds,
        )

    def _lacks(self, node: Node, lookups: Mapping[str, Lookup]) -> tuple[Reason, ...]:
        """Return what a node's key takes and is not known yet."""
        reasons = [
            Reason("input", source.target)
            for _, source, _ in self.graph.inputs[node.name]
            if lookups[source.name].outputs is None
        ]
        if node.source and self.scan.pin(node) == "":
            reasons.append(Reason("source", node.source.text, None, "not pinned yet"))
        return tuple(reasons)

    def _look_up_without_key(
        self, node: Node, reasons: tuple[Reason, ...], seconds: float | None
    ) -> Lookup:
        """Look up a node that has no key yet. Raises InputError."""
        for wanted in node.files:
            # What can't be read is said before hours of training, not after.
            self.scan.check(node, wanted)
        if node.source and node.source.scheme == "file":
            self.scan.files(node)
        verdict = Verdict.STALE if self.scan.pin(node) == "" else Verdict.WAITING
        return Lookup(node=node, verdict=verdict, reasons=reasons, seconds=seconds)

    def _parts(self, node: Node, lookups: Mapping[str, Lookup]) -> tuple[Part, ...]:
        """Return all of which a node's key is made. Raises InputError and RecipeError."""
        inputs = []
        for edge, source, output in self.graph.inputs[node.name]:
            if not edge.keyed:
                continue
            outputs = lookups[source.name].outputs
            assert outputs is not None
            inputs.append((edge.role, outputs[output], edge.sibling or str(edge.ref)))
        return parts_of(
            node,
            inputs,
            self.scan.files(node),
            self.scan.pin(node),
            self.scan.libraries(node),
            self.scan.machine(node),
            self.dating.parts(node, lookups),
            self.scan.variables(node),
        )

    def _refuse_for_content(
        self, node: Node, key: str, lookups: Mapping[str, Lookup]
    ) -> tuple[Reason, ...]:
        """Refuse a result that is not to be carried over to inputs of another content.

        Return that as a reason. What this plan's own build makes is not refused.
        """
        if all(edge.keyed for edge in node.edges) or (trace := self.traces.get(key)) is None:
            return ()
        allowed = only_for(trace.provenance)
        if not allowed or content_beside(self.graph, node, lookups) in allowed:
            return ()
        until = trace.provenance.get(COUNTS_UNTIL)
        # The clock is read only for what was measured on a machine that is often busy.
        if isinstance(until, int | float) and self.scan.now < until:
            return ()
        if self.refused.setdefault(key, trace) != trace:
            return ()
        return (Reason("age", "measured on a busy machine, for other models"),)

    def _why_old(self, node: Node, key: str) -> tuple[Reason, ...]:
        """Return the age of the result under a key as a reason, if that is why there is none."""
        trace = self.traces.get(key) if node.max_age is not None else None
        why = self._why_too_old(node, trace) if trace else ""
        return (Reason("age", why),) if why else ()

    def trace(self, node: Node, key: str) -> Trace | None:
        """Return the trace under a key.

        One that lacks an output of the node is none, whoever wrote it; nor is one that is too old,
        or for other inputs.
        """
        trace = self.traces.get(key)
        if trace is None or node.outputs.keys() - trace.outputs.keys():
            return None
        if trace == self.refused.get(key):
            return None
        return None if self._why_too_old(node, trace) else trace

    def _why_too_old(self, node: Node, trace: Trace) -> str:
        """Return why a result counts no more for its age; "" where it counts.

        The clock is read only for a node whose results have an age.
        """
        if node.max_age is None:
            return ""
        made = trace.provenance.get(MADE_AT)
        days = f"{node.max_age / DAY:g}"
        if not isinstance(made, int | float):
            return f"it is not known when it was made, and it counts for {days} days"
        age = self.scan.now - made
        return f"made {age / DAY:.0f} days ago, and counts for {days}" if age > node.max_age else ""


def only_for(provenance: Mapping[str, object]) -> list[object]:
    """Return the contents of inputs to which alone a result counts; empty: it counts to all."""
    allowed = provenance.get(ONLY_FOR)
    return allowed if isinstance(allowed, list) else []


def carried_on(
    before: Mapping[str, object], provenance: Mapping[str, object], now: float
) -> dict[str, object]:
    """Return the provenance of a result that takes the place of another under its key.

    It counts for what the other counted for, too: two nodes with one key would make it in turns,
    for ever. Where both count for their contents alone it counts for all for a day: another
    measurement would find the machine as busy, and take as long.
    """
    allowed, earlier = only_for(provenance), only_for(before)
    if not allowed:
        return dict(provenance)
    until = {COUNTS_UNTIL: now + DAY} if earlier else {}
    return {**provenance, ONLY_FOR: [*earlier, *allowed][-MOST_CONTENTS:], **until}


def content_beside(graph: Graph, node: Node, lookups: Mapping[str, Lookup]) -> list[str]:
    """Return the digests of the inputs of which a node's key does not hold the content."""
    digests = []
    for edge, source, output in graph.inputs[node.name]:
        outputs = lookups[source.name].outputs
        if not edge.keyed and outputs:
            digests.append(outputs[output])
    return digests


def _why_stale(
    last: LastBuild | None, trace: Trace | None, parts: tuple[Part, ...]
) -> tuple[Reason, ...]:
    """Return why there is no result under a key.

    Given the last result of its node in this workspace and the trace of that.
    """
    if trace:
        return tuple(compare(trace.parts, parts))
    if last:
        return (Reason("output", "the last trace", last.key, "missing"),)
    return (Reason("new", "never built here"),)
