"""Training in proportion to the edit (`order: append`): states named after the rows that made them.

While the rate does not depend on how many steps come, the state after a step is decided by the rows
up to it. It is kept under a
digest of those, so that a training whose data begins alike goes on from the last common batch, with
the bytes of a clean run on a
processor. An edit in the middle leaves only what came before it; a second epoch begins after all
rows, so that more rows change it.
"""

from __future__ import annotations

import contextlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from olivebuild.core import hashing
from olivebuild.ml.training.checkpoint import State, read, write
from olivebuild.ml.training.loop import Loop

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import AdapterFields

PLACES = 8
"""States that are kept along the way, besides the last one."""
KEPT = 24
"""States of one kind of training; the oldest go."""


def go_on_from_prefix(job: Job, fields: AdapterFields, loop: Loop) -> None:
    """Take the furthest state that fits, if it is further than where the loop is, and have the loop
    keep such states.
    """
    folder = job.store.checkpoint(job.action.key).parent
    family, rows = _family(job, fields, loop), _prefixes(loop)
    stable = loop.schedule.stable

    def file(step: int) -> Path:
        return folder / f"{family}-{rows[step]}.safetensors"

    for step in range(stable, loop.step, -1):
        if (
            file(step).exists()
            and (state := read(file(step)))
            and state.step == step
            and loop.resume(state)
        ):
            loop.known = step
            with contextlib.suppress(OSError):
                file(step).touch()
            job.note(
                f"{step} of {loop.schedule.steps} steps are known from a training whose data "
                "begins alike"
            )
            break

    def keep(state: State) -> None:
        try:
            write(file(state.step), state, job.out.parent)
        except OSError as e:
            job.note(f"the state at step {state.step} could not be kept: {e.strerror or e}")
        for old in sorted(
            folder.glob(f"{family}-*.safetensors"), key=lambda p: p.stat().st_mtime_ns
        )[:-KEPT]:
            old.unlink(missing_ok=True)

    for step in {stable, *range(max(1, stable // PLACES), stable, max(1, stable // PLACES))}:
        loop.also_at(step, keep)


def _family(job: Job, fields: AdapterFields, loop: Loop) -> str:
    """A digest of all that decides the state after a step, but for the rows and for how many steps
    come.
    """
    from olivebuild.core.host import installed
    from olivebuild.steps.adapter import STEP

    parameters = STEP.parameters(fields)
    training = {
        k: v
        for k, v in fields.training.resolved().model_dump(mode="json").items()
        if k not in ("steps", "epochs", "checkpoint_steps", "decay")
    }
    # Of the data sets, the digest of the rows counts, and not that of the whole.
    inputs = {
        role: given.digest
        for role, given in job.action.inputs.items()
        if role not in ("data", "eval")
    }
    if loop.evaluation:
        inputs["eval"] = hashing.of_json(
            [[row.ids.tolist(), row.counted.tolist()] for row in loop.evaluation.rows]
        )
    here = [
        loop.forward.device.type,
        str(loop.forward.model.dtype),
        dict(job.action.numerics),
        torch.get_num_threads(),
        vars(loop.forward.setup),
    ]
    libraries = {name: installed(name) for name in STEP.libraries(fields)}
    return hashing.of_json(
        [STEP.version, parameters | {"training": training}, inputs, libraries, here]
    )


def _prefixes(loop: Loop) -> list[str]:
    """For each step up to the stable end, the digest of all rows before it."""
    found, whole = [hashing.of_json([])], hashing.hasher()
    for batch in islice(loop.schedule.batches(), loop.schedule.stable):
        for row in (loop.rows[i] for i in batch):
            whole.update(len(row).to_bytes(8, "little") + row.ids.tobytes() + row.counted.tobytes())
        whole.update(b"|")
        found.append(str(whole.hexdigest()))
    return found
