"""What the Python API gives back: plans, results, targets and reports, which notebooks show."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

from olivebuild.core.errors import BuildError, InputError, StepError
from olivebuild.planner.plan import Plan as PlanOfNodes
from olivebuild.planner.project import Project
from olivebuild.planner.states import Verdict

if TYPE_CHECKING:
    import pyarrow

    from olivebuild.library.building import BuildOutcome


_DRAWING = threading.Lock()


class PlannedTarget(Struct, frozen=True, kw_only=True):
    """A target of a plan. `verdict` is fresh, cached, stale, waiting or broken."""

    name: str
    kind: str
    verdict: str
    key: str | None
    seconds: float | None
    """What its steps took the last time; None where they never ran."""
    reasons: tuple[Mapping[str, object], ...]
    """`cause`, `what`, `old` and `new` of each change."""

    @staticmethod
    def of(project: Project, plan: PlanOfNodes, name: str) -> PlannedTarget:
        from olivebuild.ui.why import unique_reasons

        verdict, states = plan.target(name)
        costs = [state.seconds for state in states if state.seconds is not None]
        reasons = [] if verdict is Verdict.FRESH else unique_reasons(states, name)
        return PlannedTarget(
            name=name,
            kind=project.graph.targets[name].kind,
            verdict=verdict.value,
            key=states[-1].key,
            seconds=round(sum(costs), 3) if costs else None,
            reasons=tuple(asdict(reason) for reason in reasons),
        )


class Plan(Struct, frozen=True, kw_only=True):
    """What a build would do."""

    targets: tuple[PlannedTarget, ...]
    problems: tuple[BuildError, ...] = ()
    """What the models and rows at hand are known not to allow: a build would end with these."""
    notes: tuple[str, ...] = ()
    shown: PlanOfNodes
    """The plan that the command line draws; no part of the API."""

    def __iter__(self) -> Iterator[PlannedTarget]:
        return iter(self.targets)

    def __getitem__(self, name: str) -> PlannedTarget:
        """Return a target of the plan. Raises KeyError."""
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)

    @property
    def stale(self) -> tuple[str, ...]:
        """The targets that a build would run."""
        return tuple(t.name for t in self.targets if t.verdict in ("stale", "waiting"))

    @property
    def is_fresh(self) -> bool:
        """Whether a build has nothing to do."""
        return all(target.verdict == "fresh" for target in self.targets)

    def __repr__(self) -> str:
        rows = ", ".join(f"{target.name} {target.verdict}" for target in self.targets)
        return f"<olivebuild plan: {rows}>"

    def _repr_html_(self) -> str:
        from olivebuild.ui import console

        return drawn(lambda: console.show_plan(self.shown))


class Result(Struct, frozen=True, kw_only=True):
    """How a build ended that had no failure."""

    goals: tuple[str, ...]
    ran: tuple[str, ...]
    restored: tuple[str, ...]
    fresh: tuple[str, ...]
    stopped: tuple[str, ...] = ()
    """Benchmarks that `decide` ended before their tables were made."""
    gates: tuple[Mapping[str, Any], ...] = ()
    """Each gate with its `state` (met, missed, undecided), value and interval."""
    diagnostics: tuple[Mapping[str, Any], ...] = ()
    ships: bool | None = None
    """Whether all gates are met; None without any."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    """Wall time."""
    shown: BuildOutcome
    """What the command line draws; no part of the API."""

    def __repr__(self) -> str:
        said = {None: "", True: ", all gates met", False: ", not all gates met"}[self.ships]
        counts = f"{len(self.ran)} built, {len(self.restored)} restored, {len(self.fresh)} fresh"
        return f"<olivebuild result: {counts}{said}>"

    def _repr_html_(self) -> str:
        from olivebuild.ui import console

        def show() -> None:
            console.show_gates(self.shown.judgements)
            console.show_diagnostics(self.shown.diagnostics)
            console.show_decision(self.shown.judgements, self.shown.diagnostics)
            console.show_summary(self.shown.report)

        return drawn(show)


class Target(Struct, frozen=True, kw_only=True):
    """A target as it was when it was asked for."""

    name: str
    kind: str
    verdict: str
    key: str | None
    digest: str
    """Of its content; "" where it has none."""
    size: int
    """Bytes of its files; 0 where it has none."""
    folder: Path | None
    """Where it lies, or will lie."""
    metrics: Mapping[str, Any]
    """What its step measured, as the JSON of reports has it; empty where it has no result."""

    @staticmethod
    def of(project: Project, plan: PlanOfNodes, name: str) -> Target:
        verdict, states = plan.target(name)
        last = states[-1]
        place = last.folder or project.workspace.output_folder(name)
        return Target(
            name=name,
            kind=project.graph.targets[name].kind,
            verdict=verdict.value,
            key=last.key,
            digest=(last.outputs or {}).get("", ""),
            size=last.trace.size if last.trace else 0,
            folder=place,
            metrics=last.trace.metrics if last.trace else {},
        )

    @property
    def path(self) -> Path:
        """The folder of its result. Raises BuildError where that is not in place."""
        if self.verdict != "fresh" or self.folder is None or not self.folder.exists():
            raise StepError(
                f"{self.name} is {self.verdict}, and not in place",
                hint=f"`project.build({self.name!r})` makes it",
                target=self.name,
            )
        return self.folder

    def to_arrow(self, split: str = "train") -> pyarrow.Table:
        """Return the rows of a data set, `train` or `test`, as a pyarrow.Table.

        Raises BuildError for a target that has no such rows.
        """
        file = self.path / f"{split}.parquet"
        if self.kind != "dataset" or not file.is_file():
            raise InputError(
                f"{self.name} has no split {split!r}",
                hint="a data set has `train`, and `test` where rows are held out",
                target=self.name,
            )
        from pyarrow import parquet

        return parquet.read_table(file)

    def __repr__(self) -> str:
        return f"<olivebuild target {self.name} ({self.kind}): {self.verdict}>"

    def _repr_html_(self) -> str:
        from olivebuild.metrics.records import read_choice, read_metrics
        from olivebuild.ui import console

        if not self.metrics or self.kind not in ("benchmark", "choice"):
            return f"<pre>{html.escape(repr(self))}</pre>"
        if self.kind == "choice":
            return drawn(
                lambda: console.show_choice(self.name, read_choice(self.metrics, self.name))
            )
        return drawn(lambda: console.show_benchmark(read_metrics(self.metrics, self.name)))


class Report(Struct, frozen=True, kw_only=True):
    """The report of a project's results, as a page and as Markdown."""

    html: str
    markdown: str

    def _repr_html_(self) -> str:
        page = html.escape(self.html)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" '
            'style="width:100%;height:48em;border:0"></iframe>'
        )


def drawn(show: Callable[[], None]) -> str:
    """Return what is shown meanwhile on standard output as HTML."""
    from olivebuild.ui.console import recorded

    # What is printed goes elsewhere meanwhile, for all threads: one at a time.
    with _DRAWING, recorded() as console:
        show()
    code = '<pre style="font-family:Menlo,Consolas,monospace;line-height:1.4">{code}</pre>'
    return str(console.export_html(inline_styles=True, code_format=code))
