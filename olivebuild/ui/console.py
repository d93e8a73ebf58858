"""Output before and after a build: plans, tables, gates, errors.

Only this module and live.py import rich.
"""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from olivebuild.core.errors import BuildError
from olivebuild.core.text import clean, seconds
from olivebuild.engine.build_comparison import Comparison
from olivebuild.engine.build_report import BuildReport
from olivebuild.engine.history import Entry
from olivebuild.metrics.catalogue import BY_NAME, title
from olivebuild.metrics.decision import decide, headline
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.metrics.gates import WORDS, Judgement
from olivebuild.metrics.gates import summary as gates_summary
from olivebuild.metrics.pace import SAME_STRUCTURE, busy_machine
from olivebuild.planner.plan import Plan
from olivebuild.planner.states import Verdict
from olivebuild.ui import history_text
from olivebuild.ui.folding import Folding
from olivebuild.ui.plain import summary
from olivebuild.ui.why import unique_reasons
from olivebuild.ui.wording import (
    GATE_COLOURS,
    describe,
    difference,
    format_metric,
    gate_note,
    gate_value,
    listed,
    since_when,
)

if TYPE_CHECKING:
    from olivebuild.metrics.records import ChoiceMetrics, DataMetrics, Metrics, ModelMetrics
    from olivebuild.planner.checks.plan_finding import PlanFinding

COLOURS = {
    Verdict.FRESH: "green",
    Verdict.CACHED: "cyan",
    Verdict.STALE: "yellow",
    Verdict.WAITING: "bright_black",
    Verdict.BROKEN: "bold red",
}


_recorder: ContextVar[Console | None] = ContextVar("recorder", default=None)


@contextmanager
def recorded() -> Iterator[Console]:
    """Have what is shown on standard output meanwhile kept by a console, and printed nowhere."""
    console = Console(record=True, file=io.StringIO(), width=110, highlight=False)
    token = _recorder.set(console)
    try:
        with redirect_stdout(console.file):
            yield console
    finally:
        _recorder.reset(token)


def stdout() -> Console:
    """Return a console on standard output."""
    if console := _recorder.get():
        return console
    # Lines of a log are not cut at 80 columns; a table on a terminal fits it.
    return Folding(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def show_error(error: BuildError) -> None:
    """Print an error to stderr: its place and fact, the line of the recipe, and the hint."""
    console = Folding(stderr=True, highlight=False, soft_wrap=True)
    where = error.where
    prefix = f"[bold]{escape(clean(str(where)))}:[/] " if where else ""
    console.print(f"{prefix}[bold red]error:[/] {escape(clean(error.fact))}")
    if where and where.text and where.line:
        column = len(clean(where.text[: where.column - 1])) if where.column else 0
        room = console.width - 9 if console.is_terminal else None
        shown, column = _around(clean(where.text), column, room)
        console.print(Text(f"  {where.line:>4} | {shown}"))
        if where.column:
            console.print(Text(f"       | {' ' * column}^", style="red"))
    if error.hint:
        console.print(f"  [cyan]hint:[/] {escape(clean(error.hint))}")


def _around(line: str, column: int, room: int | None) -> tuple[str, int]:
    """Return a line of at most `room` signs around a column, and where that stands in it then."""
    if room is None or len(line) <= room:
        return line, column
    start = max(0, min(column - room // 2, len(line) - room + 1))
    end = start + room - (start > 0) - 1
    before, after = ("…" if start else ""), ("…" if end < len(line) else "")
    return f"{before}{line[start:end]}{after}", column - start + len(before)


def show_faults(plan: Plan) -> int:
    """Show the inputs that can't be read, as errors. Return the exit code that this is."""
    faults = [lookup.fault for lookup in plan.lookups.values() if lookup.fault]
    for fault in faults:
        show_error(fault)
    return max((fault.exit_code for fault in faults), default=0)


def show_summary(report: BuildReport) -> None:
    """Print the summary of a successful build."""
    head, rest = summary(report)
    stdout().print(f"[green]{head}[/]{escape(rest)}")


def show_watch(changed: Path | None, folder: Path) -> None:
    """Print the input that changed; with None, that the watch waits."""
    if changed is None:
        stdout().print("[bright_black]watching; Ctrl-C ends[/]")
        return
    shown = changed.relative_to(folder) if changed.is_relative_to(folder) else changed
    stdout().print(f"[cyan]{'changed':<9}[/]{escape(clean(str(shown)))}")


def show_plan(plan: Plan) -> None:
    """Print a line for each target: verdict, first reason, last cost."""
    console = stdout()
    for name in plan.targets:
        verdict, states = plan.target(name)
        reasons = unique_reasons(states, name)
        cost = sum(s.seconds or 0 for s in states if s.verdict in (Verdict.STALE, Verdict.WAITING))
        text = describe(reasons[0]) if reasons and verdict is not Verdict.FRESH else ""
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 and text else ""
        last = f"  [bright_black]{seconds(cost)} last time[/]" if cost else ""
        console.print(
            (
                f"[{COLOURS[verdict]}]{verdict.value:<8}[/] {name:<14} "
                f"{escape(clean(text + more))}{last}"
            ).rstrip()
        )


def show_notes(notes: Iterable[tuple[str, str]]) -> None:
    for target, text in notes:
        stdout().print(
            f"[bright_black]{'note':<8}[/] {target:<14} {escape(clean(text))}", soft_wrap=True
        )


def show_problems(problems: Iterable[PlanFinding]) -> None:
    """Print the problems that fail a plan as errors, and the others as notes below it."""
    for problem in problems:
        if problem.fails:
            show_error(problem.error())
            if problem.stops:
                Folding(stderr=True, highlight=False, soft_wrap=True).print(
                    f"  without it can't be made: {escape(listed(problem.stops))}"
                )
        else:
            stdout().print(
                f"[bright_black]{'note':<8}[/] {problem.target:<14} "
                f"{escape(clean(f'{problem.where}: {problem.fact}; {problem.hint}'))}"
            )


def show_gates(judgements: Iterable[Judgement]) -> None:
    """Print a line for each gate, with its interval, and how many have which outcome."""
    console, judgements = stdout(), list(judgements)
    width = max((len(WORDS[j.state]) for j in judgements), default=0)
    for judged in judgements:
        note = f" ({note})" if (note := gate_note(judged)) else ""
        console.print(
            f"[{GATE_COLOURS[judged.state]}]gate {WORDS[judged.state]:<{width}}[/]  "
            f"{escape(judged.gate)}: {gate_value(judged.gate, judged.value)}{escape(note)}"
        )
    undecided = [j for j in judgements if j.state == "undecided"]
    if undecided and not any(j.strict for j in undecided):
        why = "too few rows to tell" if any(not j.why for j in undecided) else undecided[0].why
        Folding(stderr=True, highlight=False, soft_wrap=True).print(
            f"[yellow]warning:[/] {gates_summary(j.state for j in judgements)}: {why}; "
            "`strict: true` makes that an error"
        )


def show_diagnostics(diagnostics: Iterable[Diagnostic]) -> None:
    """Print a line for each diagnostic, errors first, and its hint below."""
    console = stdout()
    for diagnostic in diagnostics:
        colour = "bold red" if diagnostic.is_error else "yellow"
        text, hint = (escape(clean(part)) for part in (diagnostic.text, diagnostic.hint))
        console.print(f"[{colour}]{DIAGNOSTIC_WORDS[diagnostic.severity]:<9}[/]{text}")
        if hint:
            console.print(f"  [cyan]hint:[/] {hint}")


def show_decision(judgements: Sequence[Judgement], diagnostics: Iterable[Diagnostic]) -> None:
    """Print whether to ship, in the words of the report; nothing without gates."""
    if not judgements:
        return
    states = [judged.state for judged in judgements]
    problems = sum(diagnostic.is_error for diagnostic in diagnostics)
    fails = any(judged.fails for judged in judgements)
    outcome = decide(states, fails=fails, problems=problems)
    stdout().print(f"[{DECISION_COLOURS[outcome]}]{headline(outcome, states, problems)}[/]")


DECISION_COLOURS = {"ship": "bold green", "hold": "bold red", "undecided": "bold yellow"}
DIAGNOSTIC_WORDS = {"error": "problem", "warning": "warning"}
"""Not the word of an error: a diagnostic changes no exit code."""
QUALITIES = ("accuracy", "json_exact", "generated_accuracy")
"""Metrics of answers by how much they say; the first that was measured is used."""
OF_ROWS = (
    ("accuracy", "generated_accuracy"),
    ("schema_valid", "field_exact", "json_exact"),
    ("perplexity",),
)
"""Metrics of a data set that the table shows: of labels, of JSON, of texts without a question."""
OF_MODEL = ("ttft", "tokens_per_second", "load_seconds", "peak_rss", "size")


def show_benchmark(metrics: Metrics) -> None:
    """Print a table with a row for each model, and the baselines below."""
    console = stdout()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("model")
    columns = [
        (name, key, heading) for name in metrics.data for key, heading in _headings(metrics, name)
    ]
    for name, _, heading in columns:
        table.add_column(f"{name}\n{heading}", justify="right")
    for key in OF_MODEL:
        table.add_column(_heading(key), justify="right")
    for name, row in metrics.models.items():
        table.add_row(name, *_cells(row.data, columns), *_times(row))
    for name, values in metrics.baselines.items():
        table.add_row(name, *_cells(values, columns), style="bright_black")
    console.print()
    console.print(table)
    console.print()
    for line in [*_differences(metrics), *_over_seeds(metrics)]:
        console.print(escape(clean(line)), soft_wrap=True)


def show_measurement(metrics: Metrics, *, carried: bool) -> None:
    """Print since when speeds stand, where a build has carried them over, and a busy machine."""
    latency = metrics.latency
    if carried and latency.measured_at:
        stdout().print(f"[bright_black]{escape(clean(since_when(latency)))}[/]")
    if latency.busy:
        stdout().print(f"[yellow]{escape(busy_machine(latency.busy))}[/]")


def _differences(metrics: Metrics) -> Iterator[str]:
    """Yield each model's loss or gain against the one before it, in the first of QUALITIES."""
    rows = {(row.model, row.versus, row.data, row.figure): row for row in metrics.comparisons}
    for versus, model in pairwise(metrics.models):
        for name in metrics.data:
            of_data = (rows.get((model, versus, name, key)) for key in QUALITIES)
            yield from (difference(row) for row in islice(filter(None, of_data), 1))
        if row := rows.get((model, versus, None, "e2e")):
            yield difference(row)
        elif metrics.models[model].same_structure_as:
            yield f"{model} runs as {metrics.models[model].same_structure_as}: {SAME_STRUCTURE}"


def _over_seeds(metrics: Metrics) -> Iterator[str]:
    for model, row in metrics.models.items():
        for name, of_data in row.data.items():
            key = next((key for key in QUALITIES if key in of_data.over_seeds), "")
            spread = of_data.over_seeds.get(key)
            if spread and spread.mean is not None and spread.worst is not None:
                yield (
                    f"{model} over {len(spread.values)} seeds: {title(key)} on {name} "
                    f"{format_metric(key, spread.mean)} on average, "
                    f"{format_metric(key, spread.worst)} at worst"
                )


def _times(row: ModelMetrics) -> list[str]:
    if row.ttft is None:
        return []
    values = [(key, row.metric(key)) for key in OF_MODEL]
    return ["" if value is None else format_metric(key, value) for key, value in values]


def _headings(metrics: Metrics, data: str) -> list[tuple[str, str]]:
    """Return (metric, heading) pairs of a data set; the first heading has the number of rows."""
    rows = [row.data[data] for row in metrics.models.values()]

    def measured(group: Iterable[str]) -> list[str]:
        return [key for key in group if any(row.metric(key) is not None for row in rows)]

    labels, answers, texts = map(measured, OF_ROWS)
    # A whole object that is right to the letter is what JSON exact counts, however it is written.
    shown = ([key for key in labels if key == "accuracy"] + answers if answers else labels) or texts
    scores = dict.fromkeys(name for row in rows for name in row.scores)
    return [
        (key, f"{_heading(key)}\n{rows[0].rows} rows" if i == 0 else _heading(key))
        for i, key in enumerate([*shown, *scores])
    ]


def _heading(key: str) -> str:
    """Return a metric's title for a narrow column: a long one in lines of a word or two."""
    return textwrap.fill(title(key), 10, break_long_words=False)


def _cells(
    of_data: Mapping[str, DataMetrics], columns: Iterable[tuple[str, str, str]]
) -> list[str]:
    cells = []
    for name, key, _ in columns:
        value = of_data[name].metric(key)
        cells.append(
            "" if value is None else format_metric(key, value) if key in BY_NAME else f"{value:.3g}"
        )
    return cells


MANY = 4
"""Least number of models for which the Pareto front is shown."""


def show_front(metrics: Metrics) -> None:
    """Print the Pareto front of accuracy, speed and size, fastest last, then the beaten models."""
    pareto, models = metrics.pareto, metrics.models
    if not pareto or len(models) < MANY:
        return
    console = stdout()
    quality, speed = pareto.quality, pareto.speed

    def cells(name: str) -> list[str]:
        row = models[name]
        values = (
            (quality, row.data[pareto.data].metric(quality)),
            (speed, row.metric(speed)),
            ("size", row.size),
        )
        return ["" if value is None else format_metric(metric, value) for metric, value in values]

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("Pareto front")
    for heading in (
        f"{pareto.data}\n{title(quality)}",
        _heading(speed),
        title("size"),
    ):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name in pareto.front:
        table.add_row(f"* {name}", *cells(name), "", style="green")
    for name, by in pareto.beaten_by.items():
        table.add_row(f"  {name}", *cells(name), f"beaten by {by}", style="bright_black")
    console.print(table)
    console.print()


def show_choice(name: str, metrics: ChoiceMetrics) -> None:
    by = escape(title(metrics.by))
    stdout().print(
        f"[green]{'chosen':<9}[/]{escape(name):<22} is {escape(metrics.chosen)}, by {by}"
    )


def show_history(entries: Sequence[Entry], count: int) -> None:
    """Print the last builds, the newest last: their runs, gates, figures and causes."""
    console = stdout()
    # A log's lines are not cut.
    width = console.width if sys.stdout.isatty() else None
    for line in history_text.lines(entries, count, width):
        console.print(escape(line))
    if not entries:
        console.print("no build has been recorded yet")


def show_comparison(comparison: Comparison) -> None:
    """Print a row for each metric that both have; better is green and worse red."""
    console = stdout()
    console.print(f"{escape(clean(comparison.old))} -> {escape(clean(comparison.new))}")
    for reason in comparison.causes:
        console.print(f"  {escape(clean(describe(reason)))}")
    if not comparison.same_machine:
        console.print(
            "  [yellow]measured on different machines: speed and memory say nothing about the "
            "models[/]"
        )
    for target, why in comparison.speeds.items():
        console.print(f"  [yellow]{escape(clean(f'speed of {target}: {why}'))}[/]")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("model", "data", "figure"):
        table.add_column(heading)
    for heading in ("old", "new", "change"):
        table.add_column(heading, justify="right")
    for change in comparison.changes:
        colour = {True: "green", False: "red", None: "bright_black"}[
            None if change.noise else change.better
        ]
        values = [format_metric(change.figure, value) for value in (change.old, change.new)]
        table.add_row(
            clean(change.model),
            clean(change.data),
            title(change.figure),
            *values,
            Text(change.text, style=colour),
        )
    console.print(table if comparison.changes else "  no figure is common to both")
