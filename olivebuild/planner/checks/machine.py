"""What this machine lacks for the steps that will run: libraries, and room for what is fetched.

Of other machines, on which an executor runs steps, nothing is known here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from olivebuild.core.fs.small_files import read_json
from olivebuild.core.text import size
from olivebuild.formats import hub_cache
from olivebuild.planner.checks.plan_finding import PlanFinding
from olivebuild.planner.plan import Plan, Planner
from olivebuild.planner.states import State, Verdict

Lacks = Callable[[Iterable[str]], list[str]]
"""Returns those of some libraries that are not installed where steps run."""
TOLD_BY_METHOD = ("bitsandbytes",)
"""Libraries of which the checks of a model's use know more."""
INDEX = "model.safetensors.index.json"
SPARE = 1 << 28
"""Bytes that are left free beside what is fetched."""


def problems(
    planner: Planner, plan: Plan, lacks: Lacks, elsewhere: Collection[str] = ()
) -> Iterator[PlanFinding]:
    """Yield the libraries that are missing, those that the same nodes need together.

    `elsewhere` are nodes that another machine makes.

    A node that waits and was built here before may turn out not to run: that is a note.
    """
    groups: dict[tuple[tuple[str, ...], bool], list[State]] = {}
    for state in plan.states.values():
        if state.verdict not in (Verdict.STALE, Verdict.WAITING) or state.node.name in elsewhere:
            continue
        if missing := lacks(_needed(state)):
            runs = state.verdict is Verdict.STALE or state.node.name not in planner.workspace.last
            groups.setdefault((tuple(missing), runs), []).append(state)
    for (names, runs), states in groups.items():
        targets = list(dict.fromkeys(state.node.target for state in states))
        need = "needs" if len(targets) == 1 else "need"
        are = "is" if len(names) == 1 else "are"
        yield PlanFinding(
            targets[0],
            planner.scan.recipe.where(targets[0]),
            f"{', '.join(targets)} {need} {', '.join(names)}, which {are} not installed here",
            "pip install 'olivebuild[build]' installs what steps need",
            tuple(state.node.name for state in states),
            fails=runs,
        )


def _needed(state: State) -> list[str]:
    """Return the libraries that a node's step or the fetching of its source needs."""
    source = state.node.source
    fetches = ["huggingface_hub"] if source and source.remote_kind == "hub" else []
    return [name for name in (*state.node.libraries, *fetches) if name not in TOLD_BY_METHOD]


def space_problems(planner: Planner, plan: Plan) -> Iterator[PlanFinding]:
    """Yield the models whose weights are larger than what is free where they are fetched to."""
    place = hub_cache.cache()
    wanted = {
        name: count
        for name, folder in plan.small.items()
        if plan.states[name].node.source
        and _is_of_hub(plan.states[name])
        and (count := bytes_to_fetch(folder))
    }
    free = _free(place) if wanted else 0
    if not wanted or sum(wanted.values()) + SPARE <= free:
        return
    targets = [plan.states[name].node.target for name in wanted]
    yield PlanFinding(
        targets[0],
        planner.scan.recipe.where(targets[0], ("source",)),
        f"the weights of {', '.join(targets)} are {size(sum(wanted.values()))}, and {size(free)} "
        f"are free in {place}",
        "HF_HUB_CACHE names a folder on another disk",
        tuple(wanted),
        fails=True,
    )


def _is_of_hub(state: State) -> bool:
    source = state.node.source
    return source is not None and source.remote_kind == "hub"


def bytes_to_fetch(folder: Path) -> int:
    """Return the bytes of weights that a model's index names and that are not in its folder.

    0 where there is no index: of a single file the size is not known before it is fetched.
    """
    try:
        index = read_json(folder / INDEX)
        total, files = index["metadata"]["total_size"], {*index["weight_map"].values()}
        here = sum((folder / name).stat().st_size for name in files if (folder / name).is_file())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0
    return max(0, int(total) - here) if isinstance(total, int | float) else 0


def _free(place: Path) -> int:
    """Return the bytes that are free where a folder is, or will be made."""
    while not place.exists() and place.parent != place:
        place = place.parent
    return shutil.disk_usage(place).free
