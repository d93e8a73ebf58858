"""The verbs beside build, plan and why: looking at things, and changing what a recipe stands on."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click
from olivebuild.errors import BuildError, RecipeError
from olivebuild.options import JSON, TARGET, TARGETS, open_all, open_recipe, place, recipe_options

from olivebuild import text

if TYPE_CHECKING:
    from olivebuild.project import Project


@click.command()
@recipe_options
@click.option("--dot", "form", flag_value="dot", help="For Graphviz.")
@click.option("--mermaid", "form", flag_value="mermaid", help="For Markdown.")
@click.pass_context
def graph(ctx: click.Context, form: str | None) -> None:
    """Show the targets and what they are made from.

    \b
    olivebuild graph
    olivebuild graph --dot | dot -Tsvg > graph.svg
    """
    from olivebuild import drawing

    click.echo(
        {"dot": drawing.dot, "mermaid": drawing.mermaid, None: drawing.tree}[form](open_recipe(ctx))
    )


@click.command()
@recipe_options
@JSON
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show every target with its verdict, its size, what of it the cache holds, and what it cost.

    Equal tensors are held once, and a merge holds none that its base lends; so the sum is less than
    its parts.

    \b
    olivebuild status
    """
    from olivebuild.console import show_faults

    from olivebuild import drops, live

    project = open_all(ctx)
    with live.hashing(project.workspace.memo):
        made = project.planner.plan(project.graph.all_goals, with_faults=True)
    project.workspace.memo.save()
    rows: list[dict[str, object]] = []
    all_held: dict[str, int] = {}
    for name in made.targets:
        verdict, states = made.target(name)
        last, kind = states[-1], project.graph.targets[name].kind
        size = last.trace.size if last.trace else None
        held = project.planner.store.held(last.manifest) if last.manifest else {}
        all_held |= held
        folder = last.folder if last.folder and last.folder.exists() else None
        shown = project.planner.scan.shown(folder) if folder else ""
        stored = sum(held.values()) if last.manifest else None
        row: dict[str, object] = {
            "target": name,
            "kind": kind,
            "verdict": verdict.value,
            "size": size,
            "stored": stored,
            "seconds": last.seconds,
        }
        dropped = drops.all_told(last.trace.metrics) if last.trace else []
        dropped += [f"{drops.FAILED}: {line}" for line in project.dropped_rows(states)]
        rows.append(row | {"folder": shown or None} | ({"dropped": dropped} if dropped else {}))
        if not as_json:
            amount, kept = (text.size(n) if n is not None else "" for n in (size, stored))
            line = (
                f"{verdict.value:<8} {name:<14} {kind:<10} {amount:>9} {kept:>9}  "
                f"{text.seconds(last.seconds):>12}  {shown}"
            )
            click.echo(line.rstrip())
            for told in dropped:
                click.echo(f"{'':<9}{text.clean(told)}")
    total = sum(s.trace.size for n in made.targets if (s := made.target(n)[1][-1]).trace)
    if as_json:
        click.echo(
            json.dumps({"targets": rows, "size": total, "stored": sum(all_held.values())}, indent=2)
        )
    else:
        click.echo(
            f"{text.size(total)} in all, of which the cache holds "
            f"{text.size(sum(all_held.values()))}"
        )
    ctx.exit(show_faults(made))


@click.command()
@TARGET
@recipe_options
@click.pass_context
def log(ctx: click.Context, target: str) -> None:
    """Print what a target's last run wrote.

    \b
    olivebuild log adapter
    """
    from olivebuild import opening

    project = open_all(ctx)
    project.graph.one(target)
    names = [n.name for n in project.graph.nodes.values() if n.target == target]
    files = [file for name in names if (file := project.workspace.log_file(name)).exists()]
    if not files:
        raise BuildError(
            f"{target} has no log: it has not run in this folder",
            hint=f"`olivebuild {target}` builds it",
        )
    for file in files:
        if len(files) > 1:
            click.echo(f"== {file.stem}")
        words = opening.read(file).decode("utf-8", errors="replace")
        # Programs write what they like: a file gets all of it, a terminal is not steered by it.
        click.echo(
            text.clean(words.replace("\r\n", "\n").replace("\r", "\n"))
            if sys.stdout.isatty()
            else words,
            nl=False,
        )


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Show what this machine has and what each kind can run here.

    \b
    olivebuild doctor
    """
    from olivebuild import doctor as doctors

    facts = doctors.examine()
    click.echo(json.dumps(facts, indent=2) if as_json else doctors.to_text(facts))


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    \b
    olivebuild schema > olivebuild.schema.json
    """
    from olivebuild.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


@click.command()
@recipe_options
@click.option("--model", required=True, help="A Hugging Face folder, hf:ID, or gguf:FILE.")
@click.option("--data", required=True, help="A jsonl, json, csv, tsv or parquet file.")
@click.option("--force", is_flag=True, help="Overwrite a recipe that is there.")
@click.pass_context
def init(ctx: click.Context, model: str, data: str, force: bool) -> None:
    """Write a recipe for a model and a data file.

    \b
    olivebuild init --model hf:Qwen/Qwen2.5-0.5B-Instruct --data data/rows.jsonl
    """
    from olivebuild import scaffold

    folder, name = place(ctx)
    file, notes = scaffold.write_recipe(folder, name, model, data, force)
    for note in notes:
        click.echo(f"note: {text.clean(note)}")
    click.echo(f"wrote {file}; next: olivebuild plan")


@click.command()
@TARGETS
@recipe_options
@click.option(
    "--template-date",
    is_flag=True,
    help="Only the date that chat templates are told: today's, in UTC.",
)
@click.pass_context
def update(ctx: click.Context, targets: tuple[str, ...], template_date: bool) -> None:
    """Pin remote sources and library versions anew in olivebuild.lock.

    \b
    olivebuild update base
    olivebuild update --template-date
    """
    if template_date:
        if targets:
            from olivebuild import clock

            dates = [text for text in targets if clock.is_date(text)]
            fact = "--template-date takes no date" if dates else "--template-date takes no targets"
            hint = (
                "today's, in UTC, becomes that of the whole recipe, in olivebuild.lock; the field "
            )
            hint += (
                f"`template_date: {dates[0] if dates else clock.today()}` of a model sets another"
            )
            raise RecipeError(fact, where="command line", hint=hint)
        update_template_date(open_all(ctx))
        return
    from olivebuild.live import Display
    from olivebuild.machine import installed
    from olivebuild.pinning import pin

    from olivebuild.executors.local import LocalExecutor

    project = open_all(ctx)
    names = project.graph.goals(targets) if targets else list(project.graph.targets)
    display = Display()
    for node in list(project.graph.nodes.values()):
        source = node.source
        if node.target in names and source and source.remote:
            before = project.lock.sources.get(source.text)
            after = pin(project.planner, LocalExecutor(), node, display)
            change = "unchanged" if before == after else f"{before or 'not pinned'} -> {after}"
            click.echo(f"{source.text}: {change}")
    for name, before in sorted(project.lock.libraries.items()):
        now = installed(name)
        if now and now != before:
            project.lock.note_version(name, now)
            click.echo(f"{name}: {before} -> {now}")
    project.lock.save()


def update_template_date(project: Project) -> None:
    from olivebuild.dating import LABEL

    from olivebuild import clock

    before, now = project.lock.template_date, clock.today()
    project.lock.pin_template_date(now)
    project.lock.save()
    click.echo(
        f"{LABEL}: " + ("unchanged" if before == now else f"{before or 'not pinned'} -> {now}")
    )
    for node in project.graph.nodes.values():
        if (own := node.fields.get(LABEL)) and own != clock.FREEZE:
            click.echo(f"{node.target} has a {LABEL} of its own, {own}, which stays")


@click.command()
@TARGET
@recipe_options
@click.pass_context
def accept(ctx: click.Context, target: str) -> None:
    """Keep a target's old result for new versions of libraries, recorded as accepted.

    \b
    olivebuild accept adapter
    """
    from olivebuild.accepting import accept_target

    project = open_all(ctx)
    project.graph.one(target)
    for line in accept_target(project.planner, target):
        click.echo(line)
