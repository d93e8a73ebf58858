"""export and apply: models with their papers, and deltas of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from olivebuild.cli.completion import complete_targets
from olivebuild.cli.options import JSON, check_no_target, open_all, recipe_options
from olivebuild.core.errors import InputError
from olivebuild.exporters.layouts.names import FOLDER as PLAIN
from olivebuild.exporters.layouts.names import LAYOUTS

if TYPE_CHECKING:
    from olivebuild.exporters.export import Exported

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
@click.option("--force", is_flag=True, help="Export it though its gates are not met.")
@JSON
@click.pass_context
def export(
    ctx: click.Context,
    target: str | None,
    place: Path | None,
    since: Path | None,
    layout: str,
    force: bool,
    as_json: bool,
) -> None:
    """Export a target of build/ with all that it takes to run it, its card and licences.

    DEST is a new folder, or an archive by its suffix: .tar, .tar.gz, .zip. A model whose gates are
    missed, not decided or not measured is exported with --force alone. Runs nothing.

    \b
    olivebuild export onnx-int4 ../tone-1
    olivebuild export onnx-int4 ../tone-2.zip
    olivebuild export onnx-int4 ../tone-1-to-2 --since ../tone-1
    """
    from olivebuild.exporters.export import export as run

    if target is None or place is None:
        check_no_target(ctx, "export")
        raise click.UsageError("name a target, and where to put it", ctx)
    project = open_all(ctx)
    name = project.graph.one(target)
    done = run(project, name, place.absolute(), force=force, since=since, layout=layout)
    project.workspace.memo.save()
    if as_json:
        click.echo(json.dumps(_to_json(done), indent=2))
    else:
        _show(done, place)


def _show(done: Exported, place: Path) -> None:
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
    click.echo(f"exported {done.target} ({done.digest[:12]}) to {place}: {files}")


def _to_json(done: Exported) -> dict[str, object]:
    answer: dict[str, object] = {
        "target": done.target,
        "digest": done.digest,
        "place": str(done.place),
        "size": done.size,
        "files": done.files,
        "doubts": list(done.doubts),
    }
    if done.delta:
        answer |= {"delta": done.delta.delta, "whole": done.delta.whole}
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
    from olivebuild.exporters import standalone

    if folder is None or delta is None:
        check_no_target(ctx, "apply")
        raise click.UsageError("name the folder of a model, and a delta", ctx)
    try:
        changed = standalone.apply(folder, delta)
    except (ValueError, OSError) as e:
        hint = "export a delta --since the version that lies there"
        raise InputError(f"the delta can't be applied: {e}", where=str(delta), hint=hint) from None
    click.echo(f"{folder} is the new version" + ("" if changed else " already"))
