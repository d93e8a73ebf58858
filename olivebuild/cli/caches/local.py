"""clean, verify and gc."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from olivebuild.cli.options import JSON, open_all, open_if_there, recipe_options

if TYPE_CHECKING:
    from olivebuild.cache.gc import Sweep
    from olivebuild.planner.verify import Check, Fault


@click.command()
@recipe_options
@click.option("--dry-run", is_flag=True, help="Say what would be deleted.")
@click.pass_context
def clean(ctx: click.Context, dry_run: bool) -> None:
    """Delete build/ and .olivebuild/ of this recipe. The cache keeps everything.

    \b
    olivebuild clean --dry-run
    """
    project = open_all(ctx)
    for path in project.workspace.own():
        shown = project.planner.scan.shown(path) + ("/" if path.is_dir() else "")
        click.echo(f"{'would delete' if dry_run else 'deleted'} {shown}")
        if not dry_run:
            project.workspace.delete(path)


@click.command()
@recipe_options
@click.option(
    "--repair",
    is_flag=True,
    help="Mend what is damaged: set it aside, restore it, or have the next build make it again.",
)
@click.option(
    "--rebuild",
    "rebuilt",
    multiple=True,
    metavar="TARGET",
    help="Make this target again from its inputs, beside the cache, and compare the two instead.",
)
@JSON
@click.pass_context
def verify(ctx: click.Context, repair: bool, rebuilt: tuple[str, ...], as_json: bool) -> None:
    """Read the whole cache and this recipe's build/, and compare all with its digests.

    Exits with 1 on any fault. With --rebuild it reads nothing of that, runs the steps of targets
    again, and exits with 1 if another result comes out.

    \b
    olivebuild verify --repair
    olivebuild verify --rebuild merged --rebuild onnx-int4
    """
    if rebuilt:
        if repair:
            raise click.UsageError("--rebuild compares alone; leave --repair out", ctx)
        from olivebuild.cli.caches import rebuilding

        ctx.exit(rebuilding.run(ctx, rebuilt, as_json))
    from olivebuild.cache.store import Store
    from olivebuild.planner import verify
    from olivebuild.planner.project import cache_folder
    from olivebuild.ui import live

    project = open_if_there(ctx)
    store = project.planner.store if project else Store(cache_folder())
    checks = verify.checks(store, project)
    with live.reading("cache") as listen:
        faults = verify.run(checks, listen)
    repairs = verify.repair(store, project, faults) if repair and faults else {}
    if as_json:
        click.echo(json.dumps(_faults_as_json(checks, faults, repairs), indent=2))
    else:
        click.echo("\n".join(_faults_as_lines(checks, faults, repairs)))
    ctx.exit(1 if faults else 0)


def _faults_as_json(
    checks: Sequence[Check], faults: Sequence[Fault], repairs: Mapping[Fault, str]
) -> dict[str, Any]:
    return {
        "checked": len(checks),
        "bytes": sum(check.size for check in checks),
        "faults": [fault.name for fault in faults],
        "details": [
            {"sort": f.kind.value, "name": f.name, "why": f.why, "repair": repairs.get(f)}
            for f in faults
        ],
    }


def _faults_as_lines(
    checks: Sequence[Check], faults: Sequence[Fault], repairs: Mapping[Fault, str]
) -> Iterator[str]:
    """Yield a line for each fault, and a summary."""
    from olivebuild.core.text import clean, size
    from olivebuild.planner.verify import FaultKind

    for fault in faults:
        line = f"damaged  {fault.kind.value:<7} {fault.name}: {fault.why}"
        yield clean(line + (f" ({repairs[fault]})" if repairs else ""))
    counts = Counter(check.kind for check in checks)
    parts = [
        f"{counts[kind]} {kind.value}{'s' if counts[kind] > 1 else ''}"
        for kind in FaultKind
        if counts[kind]
    ]
    total = size(sum(check.size for check in checks))
    yield f"{', '.join(parts) or 'nothing'} checked ({total}), {len(faults)} damaged"


def quantity(read: str) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Return a callback for an option like `50GB` or `30d`; `read` names a parser in core.text."""

    def convert(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
        from olivebuild.core import text

        try:
            return None if value is None else int(getattr(text, read)(value))
        except ValueError as e:
            raise click.BadParameter(str(e)) from None

    return convert


@click.command()
@recipe_options
@click.option("--delete", is_flag=True, help="Delete it; without this, only say what would go.")
@click.option(
    "--max-size",
    callback=quantity("size_of"),
    metavar="SIZE",
    help="Leave at most this much, like 50GB (default: the recipe's).",
)
@click.option(
    "--older-than",
    callback=quantity("span_of"),
    default="30d",
    show_default=True,
    metavar="SPAN",
    help="Delete what was not used since.",
)
@click.option("--remote", is_flag=True, help="Of the remote cache that OLIVEBUILD_REMOTE names.")
@JSON
@click.pass_context
def gc(
    ctx: click.Context,
    delete: bool,
    max_size: int | None,
    older_than: int,
    remote: bool,
    as_json: bool,
) -> None:
    """Show what nobody needs in the cache, by target and age, and with --delete delete it.

    What any recipe on this machine has now stays, and so does what a running build needs. Of a
    remote cache it is what no machine has used for so long; uploads wait while it is deleted.

    \b
    olivebuild gc
    olivebuild gc --delete --max-size 50GB --older-than 2w
    olivebuild gc --remote
    """
    from functools import partial

    from olivebuild.cache import gc
    from olivebuild.cache.store import Store
    from olivebuild.core import text
    from olivebuild.engine.history import targets_made
    from olivebuild.planner.project import cache_folder

    project = open_if_there(ctx)
    store = project.planner.store if project else Store(cache_folder())
    if remote:
        from olivebuild.cache.remote_sweeps import Limits
        from olivebuild.cli.caches.remote_gc import sweep_remote

        limits = Limits(age=older_than, size=max_size, delete=delete)
        sweep_remote(store, limits, as_json=as_json)
        return
    if max_size is None and project and project.graph.recipe.cache.max_size:
        max_size = text.size_of(project.graph.recipe.cache.max_size)
    sweep = gc.collect(
        store,
        gc.Limits(older_than, max_size),
        delete=delete,
        targets_of=partial(targets_made, store.root),
    )
    click.echo(
        json.dumps(_as_json(sweep, max_size, delete), indent=2)
        if as_json
        else "\n".join(_as_lines(sweep, max_size, delete))
    )


def _as_json(sweep: Sweep, limit: int | None, deleted: bool) -> dict[str, Any]:
    files = sum(sweep.files.values())
    return {
        "deleted": deleted,
        "size": sweep.total,
        "needed": sweep.needed,
        "limit": limit,
        "freed": sweep.freed,
        "results": [vars(result) for result in sweep.results],
        "unowned": {"blobs": sweep.unowned, "files": files},
        "building": sweep.building,
    }


def _as_lines(sweep: Sweep, limit: int | None, deleted: bool) -> list[str]:
    from olivebuild.cli.caches.swept_line import line_of
    from olivebuild.core.text import clean, size

    lines = [clean(line_of(result)) for result in sweep.results]
    files = sum(sweep.files.values())
    lines += [f"{size(sweep.unowned):>10}  blobs of no result"] if sweep.unowned else []
    lines += (
        [f"{size(files):>10}  left by crashes, in quarantine, or out of date"]
        if sweep.files
        else []
    )
    word = "deleted" if deleted else "would go"
    lines.append(
        f"{size(sweep.freed)} of {size(sweep.total)} {word}; {size(sweep.needed)} are needed"
    )
    if limit is not None and sweep.total - sum(sweep.blobs.values()) > limit:
        lines.append(
            f"the rest is more than {size(limit)}: recipes on this machine or running builds need "
            "it"
        )
    if sweep.building:
        lines.append("a build is running: what was stored or used within a day stays")
    if sweep.freed and not deleted:
        lines.append("`olivebuild gc --delete` deletes it")
    return lines
