"""export and apply: models with their papers, and deltas of them."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from olivebuild.cli.completion import complete_targets
from olivebuild.cli.options import JSON, check_no_target, open_all, recipe_options
from olivebuild.core.errors import InputError
from olivebuild.exporters.layouts.names import FOLDER as PLAIN
from olivebuild.exporters.layouts.names import LAYOUTS, TYPES

if TYPE_CHECKING:
    from olivebuild.exporters.export import Exported
    from olivebuild.exporters.push.pushing import Pusher

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
PLACE = click.argument("place", metavar="DEST", required=False, type=click.Path(path_type=Path))


@click.command()
@click.argument("target", required=False, shell_complete=complete_targets)
@PLACE
@recipe_options
@click.option(
    "--since",
    type=click.Path(path_type=Path, exists=True),
    metavar="EXPORT",
    help="Only what changed since an earlier export: its folder, or its olivebuild-export.json.",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(list(LAYOUTS)),
    default=PLAIN,
    help="The form of the folder: "
    + ", ".join(f"{n}: {what}" for n, what in LAYOUTS.items())
    + ".",
)
@click.option(
    "--quantization",
    type=click.Choice(TYPES),
    help=f"Of a GGUF file: the type of the numbers in its matrices; {TYPES[0]} where not given.",
)
@click.option("--force", is_flag=True, help="Export it though its gates are not met.")
@click.option(
    "--push",
    metavar="PLACE",
    help="Push it there, too: hf:OWNER/NAME[@BRANCH], or azureml://.../workspaces/W/models/N.",
)
@click.option("--public", is_flag=True, help="A repository that --push makes is not private.")
@JSON
@click.pass_context
def export(
    ctx: click.Context,
    /,
    target: str | None,
    place: Path | None,
    as_json: bool,
    push: str | None,
    public: bool,
    quantization: str | None,
    **options: Any,
) -> None:
    """Export a target of build/ with all that it takes to run it, its card and licences.

    DEST is a new folder, or an archive by its suffix: .tar, .tar.gz, .zip. A model whose gates are
    missed, not decided or not measured is exported with --force alone. Runs nothing.

    \b
    olivebuild export onnx-int4 ../tone-1
    olivebuild export onnx-int4 ../tone-2.zip
    olivebuild export onnx-int4 ../tone-1-to-2 --since ../tone-1
    olivebuild export onnx-int4 --push hf:me/tone
    olivebuild export merged ../tone-gguf --format gguf --quantization q4_0
    """
    from olivebuild.exporters.export import export as run

    if target is None or (place is None and push is None):
        check_no_target(ctx, "export")
        raise click.UsageError("name a target, and where to put it", ctx)
    if options["since"] and place is None:
        raise click.UsageError("--since is for DEST: a push is whole", ctx)
    if public and not push:
        raise click.UsageError("--public is for --push", ctx)
    if quantization and options["layout"] != "gguf":
        raise click.UsageError("--quantization is for --format gguf", ctx)
    of_layout = {"quantization": quantization} if quantization else {}
    project = open_all(ctx)
    name = project.graph.one(target)
    with _pusher(push, public=public) as pusher:
        done = run(
            project,
            name,
            place and place.absolute(),
            push=pusher,
            options=of_layout,
            **options,
        )
    project.workspace.memo.save()
    if as_json:
        click.echo(json.dumps(_to_json(done), indent=2))
    else:
        _show(done, place)


def _pusher(text: str | None, *, public: bool) -> AbstractContextManager[Pusher | None]:
    """Return what pushes to a place; nothing without one."""
    if text is None:
        return nullcontext()
    from olivebuild.exporters.push.place import parse
    from olivebuild.exporters.push.pushing import Pusher

    return Pusher(parse(text, public=public))


def _show(done: Exported, place: Path | None) -> None:
    from olivebuild.core.text import size

    for doubt in done.doubts:
        click.echo(f"note: exported although {doubt}", err=True)
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    if not done.judged:
        click.echo(f"note: no gate of the recipe judges {done.target}", err=True)
    files = f"{done.files} files, {size(done.size)}"
    if done.delta:
        share = done.delta.delta / max(done.delta.whole, 1)
        files = f"{size(done.delta.delta)} for {size(done.delta.whole)} ({share:.2f} of it)"
    what = f"{done.target} ({done.digest[:12]})"
    if place:
        click.echo(f"exported {what} to {place}: {files}")
    if pushed := done.pushed:
        click.echo(f"pushed {what} to {pushed.text}" + ("" if pushed.new else ": there already"))
        click.echo(f"  {pushed.url}")


def _to_json(done: Exported) -> dict[str, object]:
    answer: dict[str, object] = {
        "target": done.target,
        "digest": done.digest,
        "place": str(done.place) if done.place else None,
        "size": done.size,
        "files": done.files,
        "doubts": list(done.doubts),
    }
    if done.delta:
        answer |= {"delta": done.delta.delta, "whole": done.delta.whole}
    if done.pushed:
        answer["pushed"] = to_builtins(done.pushed)
    return answer


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.argument("delta", required=False, type=FOLDER)
@click.pass_context
def apply(ctx: click.Context, folder: Path | None, delta: Path | None) -> None:
    """Bring an exported model in FOLDER to the version that DELTA leads to.

    The folder is the old version or the new one, whole, whenever this is interrupted. DELTA has a
    program that does the same with Python alone: python DELTA/apply.py FOLDER.

    \b
    olivebuild apply /srv/tone tone-1-to-2
    """
    from olivebuild.core.fs.locks import locked_folder
    from olivebuild.exporters import standalone

    if folder is None or delta is None:
        check_no_target(ctx, "apply")
        raise click.UsageError("name the folder of a model, and a delta", ctx)
    try:
        # As the program in the delta does when it is run.
        with locked_folder(folder.resolve().parent):
            changed = standalone.apply(folder, delta)
    except Exception as e:  # noqa: BLE001
        # It checks no more of a delta than it must, so as to be short.
        hint = "export a delta --since the version that lies there"
        known = isinstance(e, ValueError | OSError) and not isinstance(e, UnicodeError)
        why = str(e) if known else f"it is damaged, or none: {type(e).__name__}: {e}"
        raise InputError(
            f"the delta can't be applied: {why}", where=str(delta), hint=hint
        ) from None
    click.echo(f"{folder} is the new version" + ("" if changed else " already"))
