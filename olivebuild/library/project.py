"""A recipe as an object: plan it, build it, and read what lies in build/."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from olivebuild.api.event import Event, Listener
from olivebuild.core.streams import json_text
from olivebuild.library.executors import BuildOptions, open_executor
from olivebuild.library.results import Plan, PlannedTarget, Report, Result, Target
from olivebuild.planner import project as projects
from olivebuild.planner.plan import Plan as PlanOfNodes
from olivebuild.recipe import file as recipes

Settings = Mapping[str, object] | Iterable[str]


def open(  # noqa: A001
    folder: str | os.PathLike[str] = ".", *, file: str | None = None, settings: Settings = ()
) -> Project:
    """Return the project of a recipe: `olivebuild.yaml` in `folder`, or another `file` there.

    `settings` override fields of the recipe: `{"adapter.training.lr": 2e-4}`, whose values are of
    the fields' types, or words as `--set` takes them. Raises BuildError for a recipe that can't be
    read.
    """
    return Project(Path(folder).absolute(), file, _words(settings))


def _words(settings: Settings) -> tuple[str, ...]:
    """Return settings as `--set` takes them: a text in quotes, or "1" would be a number."""
    if isinstance(settings, str):
        return (settings,)
    if isinstance(settings, Mapping):
        return tuple(f"{field}={json_text(value)}" for field, value in settings.items())
    return tuple(settings)


def _names(targets: Sequence[str]) -> Sequence[str]:
    """Return names of targets. Raises TypeError for what is none: a list of them, a Target."""
    for name in targets:
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no name of a target: write plan('a', 'b')")
    return targets


class Project:
    """A recipe and its folder. What is asked of it is looked up anew each time.

    It holds nothing open, so any number of them may be kept, in several processes.
    """

    def __init__(self, folder: Path, file: str | None, settings: tuple[str, ...]) -> None:
        self.folder = folder
        self._place = (folder, file)
        self._settings = settings
        graph = projects.open_graph(folder, file, settings)
        self.targets = tuple(graph.targets)
        """The names of the targets, in the recipe's order."""
        self.notes = tuple(graph.recipe.notes)
        """What was left out of the recipe for the settings."""

    def __repr__(self) -> str:
        return f"<olivebuild project {self.folder}: {', '.join(self.targets)}>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __contains__(self, name: object) -> bool:
        return name in self.targets

    def __getitem__(self, name: str) -> Target:
        """Return a target as it is now. Raises KeyError for a name that is none."""
        if name not in self.targets:
            raise KeyError(name)
        with self._opened() as project:
            plan = self._planned(project, [name])
            return Target.of(project, plan, name)

    def plan(self, *targets: str) -> Plan:
        """Return what a build of the targets would run, and why; by default the recipe's default.

        Runs nothing. Raises BuildError.
        """
        from olivebuild.planner.checks.all_checks import problems

        with self._opened() as project:
            plan = self._planned(project, project.graph.goals(_names(targets)))
            findings = problems(project.planner, plan)
            return Plan(
                targets=tuple(PlannedTarget.of(project, plan, name) for name in plan.targets),
                problems=tuple(f.error() for f in findings if f.fails),
                notes=tuple(f"{f.where}: {f.fact}; {f.hint}" for f in findings if not f.fails),
                shown=plan,
            )

    def build(
        self,
        *targets: str,
        jobs: int = 0,
        keep_going: bool = False,
        resources: Mapping[str, object] | None = None,
        executor: str = "",
        log_to: Sequence[str] = (),
        decide: bool = False,
        on_event: Listener | None = None,
    ) -> Result:
        """Build targets, by default the recipe's default, as `olivebuild build` does.

        The options are those of the command. `on_event` is called with each event, in this thread.
        A gate that is missed is no error: `Result.ships` says so. Ctrl-C ends the steps in order.
        What `on_event` raises ends the build, and is raised. Raises BuildError for a target that
        fails, and an ExceptionGroup for several; ValueError for less than no jobs.
        """
        if jobs < 0:
            raise ValueError(f"jobs is {jobs}: nothing would ever start")
        options = BuildOptions(
            jobs=jobs,
            keep_going=keep_going,
            resources=tuple(f"{name}={amount}" for name, amount in (resources or {}).items()),
            log_to=(log_to,) if isinstance(log_to, str) else tuple(log_to),
            executor=executor,
            decide=decide,
        )
        runner = open_executor(options, self._executors)
        try:
            runner.prepare(("olivebuild.api.step",))
            return self._build(targets, options, runner, on_event or _ignore)
        finally:
            runner.cancel()

    def report(self) -> Report:
        """Return the report of all targets, as `olivebuild report` writes it."""
        from olivebuild.ui.report.collect import report as collect
        from olivebuild.ui.report.render import html, markdown

        with self._opened() as project:
            plan = self._planned(project, project.graph.all_goals)
            records = collect.collect(project, plan)
            return Report(html=html.render(records), markdown=markdown.render(records))

    def history(self) -> list[dict[str, Any]]:
        """Return the builds that had something to do, the oldest first, as `history --json`."""
        from msgspec import to_builtins

        from olivebuild.engine.recorder import history_of

        with self._opened() as project:
            return [to_builtins(entry) for entry in history_of(project).read()]

    def _build(
        self,
        targets: tuple[str, ...],
        options: BuildOptions,
        executor: Any,
        listen: Listener,
    ) -> Result:
        from olivebuild.library import building

        lines: list[str] = []
        with self._opened() as project:
            goals = project.graph.goals(_names(targets))
            display = nullcontext(listen)
            outcome = building.run(project, goals, options, executor, display, lines.append)
            report = outcome.report
            result = Result(
                goals=tuple(report.goals),
                ran=tuple(report.ran),
                restored=tuple(report.restored),
                fresh=tuple(report.fresh),
                stopped=tuple(report.stopped),
                gates=tuple(asdict(judgement) for judgement in outcome.judgements),
                diagnostics=tuple(asdict(d) for d in outcome.diagnostics),
                ships=None
                if not outcome.judgements
                else all(judgement.passed for judgement in outcome.judgements),
                notes=tuple(lines),
                seconds=report.seconds,
                shown=outcome,
            )
        for error in report.errors:
            if error.where:
                error.add_note(str(error.where))
            error.add_note(f"hint: {error.hint}")
        if len(report.errors) == 1:
            raise report.errors[0]
        if report.errors:
            raise ExceptionGroup(f"{len(report.errors)} targets failed", report.errors)
        return result

    def _executors(self) -> tuple[str, ...]:
        return tuple(recipes.load(recipes.find(*self._place)).executors)

    @contextmanager
    def _opened(self) -> Iterator[projects.Project]:
        project = projects.open_project(*self._place, self._settings)
        with closing(project.planner.traces):
            yield project

    def _planned(self, project: projects.Project, goals: Iterable[str]) -> PlanOfNodes:
        plan = project.planner.plan(goals, with_faults=True)
        project.workspace.memo.save()
        return plan


def _ignore(event: Event) -> None:
    """Take an event for which nobody asked."""
