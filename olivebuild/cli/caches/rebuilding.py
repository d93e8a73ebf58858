"""verify --rebuild: steps run again, and their results compared with those in the cache."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import click

from olivebuild.api.event import Event
from olivebuild.cli.options import open_all
from olivebuild.core import host
from olivebuild.core.text import clean, seconds
from olivebuild.engine.provenance.rebuild import Rebuilt, rebuild
from olivebuild.engine.scheduler import ResourcePool, Room, limits_of
from olivebuild.executors.local import LocalExecutor
from olivebuild.library.executors import MOST
from olivebuild.ui.display import Showing


def run(ctx: click.Context, targets: Iterable[str], as_json: bool) -> int:
    """Make targets again, and print what came out; return the exit code."""
    project = open_all(ctx)
    goals = project.goals(tuple(targets))
    pool = ResourcePool(limits_of((), host.resources() | project.graph.limits))
    room = Room(0, pool, gpus=len(host.gpu_names()))
    executor = LocalExecutor(MOST)
    try:
        with nullcontext(_ignore) if as_json else Showing() as listen:
            results = rebuild(project, goals, executor, listen, pool, room)
    finally:
        executor.cancel()
        project.planner.traces.close()
    if as_json:
        click.echo(json.dumps({"rebuilt": [_as_json(result) for result in results]}, indent=2))
    else:
        click.echo("\n".join(clean(_line(result)) for result in results))
    return 0 if all(result.is_same for result in results) else 1


def _ignore(_event: Event) -> None:
    """Take an event, and do nothing."""


def _line(result: Rebuilt) -> str:
    took = seconds(result.now.seconds)
    if result.is_same:
        return f"reproduced  {result.node}: the same digests ({took})"
    outputs = [
        f"{name or result.node} {digest[:8]} -> {result.now.outputs.get(name, 'nothing')[:8]}"
        for name, digest in result.before.outputs.items()
        if result.now.outputs.get(name) != digest
    ]
    why = "; ".join(result.differences) or "the step is not deterministic, or a result is not its"
    return f"differs     {result.node}: {', '.join(outputs)} ({why})"


def _as_json(result: Rebuilt) -> dict[str, Any]:
    return {
        "node": result.node,
        "target": result.target,
        "key": result.before.key,
        "same": result.is_same,
        "before": dict(result.before.outputs),
        "now": dict(result.now.outputs),
        "numerics": result.differences,
        "seconds": result.now.seconds,
    }
