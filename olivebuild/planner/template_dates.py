"""Dates for chat templates that read the clock. Templates are read, never executed.

The date is a part of the key of each node that such a template renders. It is the model's
`template_date`, or the one in olivebuild.lock. The first build that needs one writes it there, and
before that, plans have today's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from msgspec import Struct

from olivebuild.api.node import Node
from olivebuild.cache.key import Part
from olivebuild.core.errors import Damaged, InputError, RecipeError
from olivebuild.formats import template_clock
from olivebuild.formats.template_clock import FREEZE
from olivebuild.planner.scan import Scan
from olivebuild.recipe.graph import Graph

if TYPE_CHECKING:
    from olivebuild.cache.store import Store
    from olivebuild.cache.traces import Traces
    from olivebuild.planner.states import Lookup

LABEL = "template_date"
MODELS = ("model", "merged", "adapter", "onnx", "onnx-adapter", "choice")
"""The kinds whose results have a chat template."""


class Dated(Struct, frozen=True):
    """A model whose template reads the clock; its date's origin is field, lock or first build."""

    target: str
    date: str
    origin: str
    freezes: bool

    def __str__(self) -> str:
        told = {
            "field": f"it is rendered with {self.date}, its template_date",
            "lock": f"it is rendered with {self.date}, which olivebuild.lock has",
            "first build": "it will be rendered with the date of the first build, "
            f"{self.date} if that is today",
        }[self.origin]
        return f"the chat template of {self.target} reads the clock: {told}" + (
            "; what is merged has it fixed" if self.freezes else ""
        )


class Dating:
    """The template dates of a graph's models.

    `pinned` is called with a model and a text when a date is written into olivebuild.lock. Without
    it nothing is written.
    """

    def __init__(self, graph: Graph, scan: Scan, store: Store, traces: Traces) -> None:
        self._graph, self._scan, self._store, self._traces = graph, scan, store, traces
        self._clock_readers: dict[tuple[str, str], bool] = {}
        self._today = template_clock.today()
        self.pinned: Callable[[Node, str], None] | None = None

    def parts(self, node: Node, lookups: Mapping[str, Lookup]) -> list[Part]:
        """Return the part of a node's key that is its date, if it has one.

        Raises RecipeError when the models that it is made of have several dates.
        """
        publishes = node.template == "published"
        if not (publishes or self._renders(node)):
            return []
        roots = [
            self._graph.nodes[name]
            for name in self._roots[node.name]
            if self._reads_clock(lookups[name])
        ]
        if publishes:
            # A template that stays the model's own writes no date into what is published.
            roots = [root for root in roots if root.fields.get(LABEL) == FREEZE]
        if not roots:
            return []
        dates = {root.name: self._date(root)[0] for root in roots}
        if len(set(dates.values())) > 1:
            named = ", ".join(
                f"{date} of {self._graph.nodes[name].target}"
                for name, date in sorted(dates.items())
            )
            hint = (
                "the prompts of training and of use would differ; give these models one "
                "`template_date`"
            )
            raise RecipeError(
                f"the models that {node.target} is made of have several dates: {named}",
                where=self._scan.recipe.where(node.target),
                hint=hint,
            )
        date = next(iter(dates.values()))
        return [Part("parameter", LABEL, f"{FREEZE} {date}" if publishes else date)]

    def told(self, lookups: Mapping[str, Lookup]) -> list[Dated]:
        """Return the models that render something and whose templates read the clock."""
        wanted = dict.fromkeys(
            root
            for name, lookup in lookups.items()
            if self._renders(lookup.node)
            for root in self._roots[name]
            if lookups[root].outputs
        )
        dated = []
        for name in wanted:
            node = self._graph.nodes[name]
            if self._reads_clock(lookups[name]):
                date, origin = self._date(node)
                dated.append(Dated(node.target, date, origin, node.fields.get(LABEL) == FREEZE))
        return dated

    def date_of(self, target: str, lookups: Mapping[str, Lookup]) -> str:
        """Return the date of a model's template; empty where it does not read the clock."""
        roots = [
            self._graph.nodes[name]
            for name in self._roots[target]
            if self._reads_clock(lookups[name])
        ]
        return self._date(roots[0])[0] if roots else ""

    def ignored(self, lookups: Mapping[str, Lookup]) -> list[tuple[Node, str]]:
        """Return (node, warning) of fields that change nothing."""
        return [
            (
                lookup.node,
                f"{LABEL} changes nothing: the chat template of {lookup.node.target} does not read "
                "the clock",
            )
            for lookup in lookups.values()
            if lookup.node.fields.get(LABEL)
            and lookup.node.kind == "model"
            and lookup.outputs
            and not self._reads_clock(lookup)
        ]

    def _renders(self, node: Node) -> bool:
        """Return whether a template renders rows of a node: written prompts and texts need none."""
        rows = [
            source for _, source, _ in self._graph.inputs[node.name] if source.kind == "dataset"
        ]
        return node.template == "rendered" and not (
            rows and all({"prompt", "text"} & source.fields.keys() for source in rows)
        )

    @cached_property
    def _roots(self) -> dict[str, tuple[str, ...]]:
        """Return node -> the models and adapters from outside that it is made of."""
        roots: dict[str, tuple[str, ...]] = {}
        for name, node in self._graph.nodes.items():
            sources = [
                roots[source.name]
                for _, source, _ in self._graph.inputs[name]
                if source.kind in MODELS
            ]
            if node.kind == "onnx-adapter" and node.source:
                # From outside as well as its base, and with a template of its own, perhaps.
                sources.append((name,))
            if len(sources) > 1:
                roots[name] = tuple(dict.fromkeys(chain.from_iterable(sources)))
            else:
                roots[name] = sources[0] if sources else (name,) if node.kind in MODELS else ()
        return roots

    def _date(self, root: Node) -> tuple[str, str]:
        """Return the date of a model, and its origin."""
        date = root.fields.get(LABEL)
        if date and date != FREEZE:
            return str(date), "field"
        lock = self._scan.lock
        if not lock.template_date and self.pinned:
            lock.pin_template_date(self._today)
            lock.save()
            text = (
                f"its chat template reads the clock: {lock.file.name} has {lock.template_date} "
                "now, which is its date in all builds"
            )
            self.pinned(root, text)
        return (lock.template_date, "lock") if lock.template_date else (self._today, "first build")

    def _reads_clock(self, lookup: Lookup) -> bool:
        if not lookup.outputs:
            return False
        key = (lookup.node.name, lookup.outputs[""])
        if key not in self._clock_readers:
            self._clock_readers[key] = self._look(lookup)
        return self._clock_readers[key]

    def _look(self, lookup: Lookup) -> bool:
        trace = None
        try:
            if lookup.node.referenced_folder is not None:
                files = template_clock.files_of(self._scan.referenced(lookup.node))
            elif trace := lookup.trace or (self._traces.get(lookup.key) if lookup.key else None):
                if trace.reference:
                    files = template_clock.files_of(self._scan.recipe.folder / trace.reference)
                else:
                    entries = self._store.manifest(trace.manifest).files
                    files = {
                        e.name: b"".join(self._store.read(blob) for blob, _ in e.runs())
                        for e in entries
                        if template_clock.holds_templates(e.name)
                    }
            else:
                return False
        except (OSError, Damaged, ValueError, InputError):
            # The files are not on this machine now: the trace has what was seen when they were.
            return bool(trace and trace.provenance.get("reads_clock"))
        return any(map(template_clock.reads_clock, template_clock.templates_in(files)))
