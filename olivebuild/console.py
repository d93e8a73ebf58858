"""What people see: the only file that knows rich. Reads events, plans and reports; decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from olivebuild.build import Report
from olivebuild.comparing import Comparison, since_last
from olivebuild.digest import StatMemo
from olivebuild.errors import BuildError
from olivebuild.events import Event
from olivebuild.gates import Judgement
from olivebuild.history import Entry
from olivebuild.key import Reason
from olivebuild.plan import Plan, Verdict
from olivebuild.wording import clean, describe, figure, percent, seconds, size

COLOURS = {Verdict.FRESH: "green", Verdict.CACHED: "cyan", Verdict.STALE: "yellow", Verdict.WAITING: "bright_black"}


def stdout() -> Console:
    # Lines of a log are not cut at 80 columns; a table on a terminal fits it.
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def show_error(error: BuildError) -> None:
    """Headline, place, hint: on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    where = error.where
    prefix = f"[bold]{escape(clean(str(where)))}:[/] " if where else ""
    console.print(f"{prefix}[bold red]error:[/] {escape(clean(error.fact))}")
    if where and where.text and where.line:
        console.print(Text(f"  {where.line:>4} | {clean(where.text)}"))
        if where.column:
            console.print(Text(f"       | {' ' * (where.column - 1)}^", style="red"))
    if error.hint:
        console.print(f"  [cyan]hint:[/] {escape(clean(error.hint))}")


class Display:
    """Prints the events of a build: plain lines, and on a terminal a bar for each running step below them."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or stdout()
        self._bars = Progress(
            TextColumn("  {task.fields[target]:<14}"),
            BarColumn(24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._loss: dict[str, str] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        data: Mapping[str, Any] = event.data
        node = str(data.get("node", ""))
        if event.name == "started":
            reasons = [Reason(**r) for r in data["reasons"]]
            why = describe(reasons[0]) + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "") if reasons else ""
            cost = f", took {seconds(data['seconds'])} last time" if data["seconds"] else ""
            self._line("yellow", "run", node, why + cost)
            self._tasks[node] = self._bars.add_task("starting", target=node, total=None)
        elif event.name == "progress":
            self._progress(node, data)
        elif event.name == "hashing":
            self._hashing(str(data["file"]), data["done"], data["total"])
        elif event.name == "metric" and "loss" in data:
            self._loss[node] = f", loss {data['loss']:.3f}"
        elif event.name == "note":
            self._line("bright_black", "note", node, str(data["text"]))
        elif event.name == "waiting":
            self._line("cyan", "wait", node, "another build makes it")
        elif event.name in ("finished", "restored", "failed"):
            if node in self._tasks:
                self._bars.remove_task(self._tasks.pop(node))
            word, colour = {"finished": ("done", "green"), "restored": ("restored", "cyan"), "failed": ("failed", "red")}[event.name]
            self._line(colour, word, node, seconds(data.get("seconds")))

    def _hashing(self, file: str, done: int, total: int) -> None:
        bar = self._tasks.get(f"hashing {file}")
        if bar is None:
            bar = self._tasks[f"hashing {file}"] = self._bars.add_task("", target="hashing", total=total)
        self._bars.update(bar, completed=done, description=f"{escape(clean(file))} {size(done)} of {size(total)}")
        if done >= total:
            self._bars.remove_task(self._tasks.pop(f"hashing {file}"))

    def _progress(self, node: str, data: Mapping[str, Any]) -> None:
        done, total = data["done"], data["total"]
        what = f"{data['what']} {done}/{total}{self._loss.get(node, '')}" if total else f"{data['what']} {done}"
        if node in self._tasks:
            self._bars.update(self._tasks[node], completed=done, total=total or None, description=what)
        tenth = done * 5 // total if total else 0
        if not self.console.is_terminal and tenth > self._tenths.get(node, 0) and total > 4:
            self._tenths[node] = tenth
            self._line("bright_black", "", node, what)

    def _line(self, colour: str, word: str, node: str, text: str) -> None:
        self.console.print(f"[{colour}]{word:<9}[/]{escape(node):<22} {escape(clean(text))}".rstrip())


@contextmanager
def hashing(memo: StatMemo) -> Iterator[None]:
    """While long files are hashed without a build, a terminal shows how far that is; on stderr, since stdout is for the answer."""
    with Display(Console(stderr=True, highlight=False)) as display:
        memo.listen = lambda path, done, total: display(Event("hashing", {"file": path.name, "done": done, "total": total}))
        yield


def show_summary(report: Report) -> None:
    console = stdout()
    if report.failed:
        return
    if not report.ran and not report.restored:
        console.print(f"[green]nothing to do[/]: {', '.join(report.goals)} {'is' if len(report.goals) == 1 else 'are'} fresh")
        return
    parts = [f"{len(names)} {word}" for names, word in ((report.ran, "built"), (report.restored, "restored"), (report.fresh, "fresh")) if names]
    console.print(f"[green]{', '.join(parts)}[/] in {seconds(report.seconds)}")


def show_plan(plan: Plan) -> None:
    console = stdout()
    for name in plan.targets:
        verdict, states = plan.target(name)
        reasons = unique_reasons(states, name)
        cost = sum(s.seconds or 0 for s in states if s.verdict in (Verdict.STALE, Verdict.WAITING))
        text = describe(reasons[0]) if reasons and verdict is not Verdict.FRESH else ""
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 and text else ""
        last = f"  [bright_black]{seconds(cost)} last time[/]" if cost else ""
        console.print(f"[{COLOURS[verdict]}]{verdict.value:<8}[/] {name:<14} {escape(clean(text + more))}{last}".rstrip())


def unique_reasons(states: Iterable[Any], target: str) -> list[Reason]:
    """The reasons of a target's nodes, without those that only say that one of its own nodes comes first."""
    reasons = [r for s in states for r in s.reasons if not (r.cause == "input" and r.what == target)]
    return list(dict.fromkeys(reasons))


def show_gates(judgements: Iterable[Judgement]) -> None:
    console = stdout()
    for judgement in judgements:
        word, colour = ("met", "green") if judgement.passed else ("missed", "bold red")
        console.print(f"[{colour}]gate {word:<7}[/]{escape(judgement.gate)}: {judgement.value:.4g}")


def show_benchmark(metrics: Mapping[str, Any]) -> None:
    """The table: a row a model, the baselines below."""
    console = stdout()
    sets = metrics["data"]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("model")
    for name in sets:
        rows = next(iter(metrics["models"].values()))["data"][name]["rows"]
        table.add_column(f"{name}\naccuracy\n{rows} rows", justify="right")
        table.add_column(f"{name}\nwritten", justify="right")
    for heading in ("first\ntoken", "tokens/s", "load", "peak RSS", "size"):
        table.add_column(heading, justify="right")
    for name, row in metrics["models"].items():
        cells = [cell for s in sets for cell in (percent(row["data"][s].get("accuracy")), percent(row["data"][s].get("generated_accuracy")))]
        speed = f"{row['tokens_per_second']:.1f}" if row["tokens_per_second"] else ""
        times = [f"{row['ttft'] * 1000:.0f} ms", speed, seconds(row["load_seconds"]), size(row["peak_rss"]), size(row["size"])]
        table.add_row(name, *cells, *times)
    for name, values in metrics.get("baselines", {}).items():
        table.add_row(name, *[cell for s in sets for cell in (percent(values[s].get("accuracy")), "")], style="bright_black")
    console.print()
    console.print(table)
    console.print()


def show_history(entries: Sequence[Entry], count: int) -> None:
    """A line a build, the newest last: what it did, why, and how its benchmarks compare with the build before."""
    console = stdout()
    for entry in entries[-count:]:
        made = f"{sum(not m.restored for m in entry.made)} run, {sum(m.restored for m in entry.made)} restored"
        why = "; ".join(describe(r) for r in entry.causes[:2]) + (f" (and {len(entry.causes) - 2} more)" if len(entry.causes) > 2 else "")
        since = ", ".join(f"{t}: {told.partition(': ')[2]}" for t in entry.measured if (told := since_last(entries, entry, t)))
        missed = [g.gate for g in entry.gates if not g.passed]
        state = f"failed: {', '.join(entry.failed)}" if entry.failed else f"missed: {'; '.join(missed)}" if missed else ""
        head = f"{entry.number:>5}  {entry.time.replace('T', ' ').rstrip('Z')}  {made:<18}  {seconds(entry.seconds):>12}  "
        console.print(escape(clean(head + "  ".join(part for part in (state, since, why) if part))).rstrip())
    if not entries:
        console.print("no build has been recorded yet")


def show_comparison(found: Comparison) -> None:
    """A row a figure; better is green and worse red."""
    console = stdout()
    console.print(f"{escape(clean(found.old))} -> {escape(clean(found.new))}")
    for reason in found.causes:
        console.print(f"  {escape(clean(describe(reason)))}")
    if not found.same_machine:
        console.print("  [yellow]measured on different machines: speed and memory say nothing about the models[/]")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("model", "data", "figure"):
        table.add_column(heading)
    for heading in ("old", "new", "change"):
        table.add_column(heading, justify="right")
    for change in found.changes:
        colour = {True: "green", False: "red", None: "bright_black"}[change.better]
        values = [figure(change.figure, value) for value in (change.old, change.new)]
        table.add_row(clean(change.model), clean(change.data), change.figure, *values, Text(change.text, style=colour))
    console.print(table if found.changes else "  no figure is common to both")
