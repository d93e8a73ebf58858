"""remote: results brought to and from a remote cache by hand, and the key that signs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from olivebuild.cli.options import JSON, TARGETS, check_no_target, open_all, recipe_options
from olivebuild.core.errors import BuildError, RecipeError, StoreError, Where

if TYPE_CHECKING:
    from olivebuild.api.event import Listener
    from olivebuild.engine.remote.cache import RemoteCache
    from olivebuild.planner.plan import Plan
    from olivebuild.planner.project import Project

ACTIONS = ("push", "pull", "status", "keygen", "withdraw")


@click.command()
@click.argument("action", type=click.Choice(ACTIONS), required=False)
@TARGETS
@recipe_options
@click.option("--url", metavar="URL", help="The remote cache; else that of OLIVEBUILD_REMOTE.")
@JSON
@click.pass_context
def remote(
    ctx: click.Context, action: str | None, targets: tuple[str, ...], url: str | None, as_json: bool
) -> None:
    """Share results through a remote cache, and see which are there.

    `push` uploads the results that targets have here, `pull` brings those that others have made
    into the cache, `status` says which results lie where. A build does both by itself where
    OLIVEBUILD_REMOTE names a remote cache. `keygen` makes the key that signs what is uploaded;
    `withdraw` takes back what was signed so far of targets' results, for all who trust the key.

    \b
    export OLIVEBUILD_REMOTE=s3://team-cache/models
    olivebuild remote status
    olivebuild remote push onnx-int4 bench
    olivebuild remote keygen
    olivebuild remote withdraw adapter
    """
    check_no_target(ctx, "remote")
    if action is None:
        raise click.UsageError(f"say what to do: {', '.join(ACTIONS)}", ctx)
    if action == "keygen":
        _keygen()
        return
    address = address_of(url)
    if action == "withdraw" and not targets:
        raise click.UsageError("say which targets' results are withdrawn", ctx)
    project = open_all(ctx)
    plan = project.planner.plan(project.goals(targets), with_faults=True)
    try:
        works = {"push": _push, "pull": _pull, "status": _status, "withdraw": _withdraw}
        works[action](project, plan, address, as_json)
    finally:
        project.planner.traces.close()


def address_of(url: str | None) -> str:
    """Return the URL of a remote cache: the one that is given, or the environment's.

    Raises RecipeError where there is none.
    """
    address = url or os.environ.get("OLIVEBUILD_REMOTE")
    if not address:
        raise RecipeError(
            "no remote cache is named",
            where=Where("command line"),
            hint="set OLIVEBUILD_REMOTE, or give --url: s3://BUCKET/PATH, az://, gs://, file:///",
        )
    return address


@contextmanager
def _opened(project: Project, url: str) -> Iterator[RemoteCache]:
    """Yield the remote cache, with notes on standard error. Raises StoreError if it fails."""
    from olivebuild.api.event import Event
    from olivebuild.core.text import clean
    from olivebuild.engine.remote.cache import RemoteCache
    from olivebuild.ui.live import on_stderr

    with on_stderr() as display:

        def tell(event: Event) -> None:
            if event.name == "transfer":
                display(event)
            # That it can't be used is an error, below.
            if event.name == "note" and not cache.fault:
                click.echo(clean(f"note: {event.data['target']}: {event.data['text']}"), err=True)

        listen: Listener = tell
        with RemoteCache(url, project.planner.store, listen) as cache:
            yield cache
    if cache.fault:
        raise StoreError(
            f"the remote cache can't be used: {cache.fault}",
            where=url,
            hint="is it there, and are there credentials for it?",
        )


def _push(project: Project, plan: Plan, url: str, as_json: bool) -> None:
    from olivebuild.engine.recorder import history_of

    keys = {str(s.key): s.node.name for s in plan.states.values() if s.key and s.trace}
    with _opened(project, url) as cache:
        if cache.read_only:
            hint = "name a bucket, a container or a folder"
            raise RecipeError("a web server is read from only", where=Where(url), hint=hint)
        cache.upload(project.planner, plan, keys.values())
        cache.share_builds(history_of(project))
    failed = [r for r in cache.uploads if r.error]
    new, count = [r for r in cache.uploads if r.put], sum(r.bytes for r in cache.uploads)
    there = len(keys) - len(new) - len(failed)
    _print(
        as_json,
        f"uploaded {len(new)} of {len(keys)} results, {_size(count)}; {there} were there",
        {"uploaded": sorted(keys[r.key] for r in new), "bytes": count, "results": len(keys)},
    )
    if failed:
        raise BuildError(
            f"{keys[failed[0].key]} was not uploaded: {failed[0].error}",
            where=url,
            hint="what was uploaded is whole; push again",
        )


def _pull(project: Project, plan: Plan, url: str, as_json: bool) -> None:
    from olivebuild.engine.recorder import history_of
    from olivebuild.planner.states import Verdict

    unknown = (Verdict.STALE, Verdict.WAITING)
    before = {name for name, state in plan.states.items() if state.verdict in unknown}
    with _opened(project, url) as cache:
        cache.bring(project.planner, plan)
        builds = cache.bring_builds(history_of(project))
    left = {name for name, state in plan.states.items() if state.verdict in unknown}
    brought = sorted(before - left)
    _print(
        as_json,
        f"found {len(brought)} of {len(before)} results, {_size(cache.fetched)} fetched; "
        "`olivebuild` restores them" + (f"; {builds} builds of others" if builds else ""),
        {"brought": brought, "bytes": cache.fetched, "left": sorted(left), "builds": builds},
    )


def _status(project: Project, plan: Plan, url: str, as_json: bool) -> None:
    keys = {name: str(s.key) for name, s in plan.states.items() if s.key}
    with _opened(project, url) as cache:
        there = cache.has(keys.values())
    rows = []
    for name, state in plan.states.items():
        if state.node.referenced_folder is not None:
            continue
        here, remote_has = state.trace is not None, keys.get(name) in there
        where = {(True, True): "both", (True, False): "here", (False, True): "remote"}.get(
            (here, remote_has), "nowhere" if name in keys else "waiting"
        )
        rows.append((where, name))
    if as_json:
        _print(True, "", {"results": {name: where for where, name in rows}})
    else:
        click.echo("\n".join(f"{where:<8} {name}" for where, name in rows))


def _withdraw(_project: Project, plan: Plan, url: str, as_json: bool) -> None:
    """Withdraw the results of the goals alone: their inputs have keys of their own."""
    goals = set(plan.goals)
    keys = {
        str(state.key): name
        for name, state in plan.states.items()
        if state.node.target in goals and state.key
    }
    if waiting := goals - {plan.states[name].node.target for name in keys.values()}:
        name = min(waiting)
        hint = "build what it is made from, so that its key is known"
        raise RecipeError(f"{name} has no key yet", where=Where("command line"), hint=hint)
    _signing("signed.withdrawals", url, *keys, failure="nothing was withdrawn")
    text = f"withdrew what was signed so far of {', '.join(sorted(goals))}"
    _print(as_json, text, {"withdrawn": sorted(goals), "keys": sorted(keys)})


def _keygen() -> None:
    file, key = _signing("signing", failure="no key was made")
    click.echo(f"the private key is {file}; others trust it by the line\n{key}")


def _signing(module: str, *words: str, failure: str) -> list[str]:
    """Run a module that has to do with keys; return the lines that it prints."""
    import subprocess

    from olivebuild.core.processes import python

    command = python("-m", f"olivebuild.ml.transfer.{module}", *words)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        hint = (
            "pip install 'olivebuild[signing]'"
            if "ModuleNotFoundError" in lines[-1]
            else "the key is the file that OLIVEBUILD_SIGNING_KEY names, or that of `keygen`"
        )
        raise StoreError(f"{failure}: {lines[-1][:200]}", hint=hint)
    return done.stdout.splitlines()


def _print(as_json: bool, text: str, data: dict[str, object]) -> None:
    import json

    click.echo(json.dumps(data, indent=2) if as_json else text)


def _size(count: int) -> str:
    from olivebuild.core.text import size

    return size(count)
