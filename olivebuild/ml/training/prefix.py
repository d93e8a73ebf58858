"""Training in proportion to the edit (`order: append`): states named after the rows before them.

While the learning rate does not depend on the number of steps to come, the state after a step is
decided by the rows up to it. It is stored under a digest of those rows. A training whose data
begins alike resumes from the last common batch, with the bytes of a clean run on a CPU. After an
edit in the middle, only the steps before it are skipped. A second epoch begins after all rows, so
that more rows change it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from olivebuild.core import hashing
from olivebuild.ml.training.checkpoint import State, read, write
from olivebuild.ml.training.loop import TrainingLoop

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.adapter import AdapterFields

STATES_PER_TRAINING = 8
"""States that are written along the way, besides the last one."""
MAX_STATES = 24
"""States of one kind of training that are kept; the oldest go."""


class PrefixStates:
    """Callback that writes states named after the rows before them; resumes from one that fits."""

    def __init__(self, job: Job, fields: AdapterFields, loop: TrainingLoop) -> None:
        self._job, self._loop = job, loop
        self._folder = job.store.checkpoint(job.action.key).parent
        self._family, self._prefixes = _family(job, fields, loop), _prefixes(loop)
        self._stable = stable = loop.schedule.stable
        stride = max(1, stable // STATES_PER_TRAINING)
        self._steps = {stable, *range(stride, stable, stride)}

    def _file(self, step: int) -> Path:
        return self._folder / f"{self._family}-{self._prefixes[step]}.safetensors"

    def resume(self) -> None:
        """Resume the loop from the last state that fits, if that is further than the loop is."""
        loop = self._loop
        for step in range(self._stable, loop.step, -1):
            file = self._file(step)
            state = read(file) if file.exists() else None
            if state and state.step == step and loop.resume(state):
                loop.steps_skipped = step
                # The file's time tells how long ago it was of use.
                with contextlib.suppress(OSError):
                    file.touch()
                self._job.note(
                    f"{step} of {loop.schedule.steps} steps are known from a training whose data "
                    "begins alike"
                )
                return

    def due(self, step: int) -> bool:
        return step in self._steps

    def after(self, step: int, state: Callable[[], State]) -> bool:
        """Write the state, and remove the oldest ones beyond MAX_STATES."""
        try:
            write(self._file(step), state(), self._job.out.parent)
        except OSError as e:
            self._job.note(f"the state at step {step} could not be kept: {e.strerror or e}")
        states = self._folder.glob(f"{self._family}-*.safetensors")
        for old in sorted(states, key=lambda file: file.stat().st_mtime_ns)[:-MAX_STATES]:
            old.unlink(missing_ok=True)
        return False


def _family(job: Job, fields: AdapterFields, loop: TrainingLoop) -> str:
    """Return a digest of all that decides the state after a step, except rows and later steps."""
    from olivebuild.core.host import installed
    from olivebuild.steps.adapter import STEP
    from olivebuild.steps.parts.training import NO_RESULT

    parameters: Any = STEP.parameters(fields)
    written = fields.training.resolved().model_dump(mode="json")
    training = {
        k: v
        for k, v in written.items()
        if k not in (*NO_RESULT, "steps", "epochs", "decay", "warmup_ratio")
    }
    # What a key holds beside the fields.
    training |= {k: v for k, v in parameters["training"].items() if k not in written}
    # Of the data sets, the digest of the rows counts, and not that of the whole.
    inputs = {
        role: entry.digest
        for role, entry in job.action.inputs.items()
        if role not in ("data", "eval")
    }
    if loop.validation:
        inputs["eval"] = hashing.of_json(
            [
                [row.ids.tolist(), row.counted.tolist()]
                + ([] if row.attended is None else [row.attended.tolist()])
                for row in loop.validation.rows
            ]
        )
    platform = [
        loop.runner.forward.device.type,
        str(loop.runner.forward.model.dtype),
        dict(job.action.numerics),
        torch.get_num_threads(),
        loop.runner.forward.setup.provenance(),
    ]
    libraries = {name: installed(name) for name in STEP.libraries(fields)}
    return hashing.of_json(
        [STEP.version, parameters | {"training": training}, inputs, libraries, platform]
    )


def _prefixes(loop: TrainingLoop) -> list[str]:
    """Return for each step up to the stable end the digest of all rows before it."""
    digests, digest = [hashing.of_json([])], hashing.hasher()
    for batch in islice(loop.schedule.batches(), loop.schedule.stable):
        for index in batch:
            row = loop.rows[index]
            digest.update(len(row).to_bytes(8, "little"))
            digest.update(row.ids.tobytes() + row.counted.tobytes())
            if row.attended is not None:
                digest.update(row.attended.tobytes())
        digest.update(b"|")
        digests.append(str(digest.hexdigest()))
    return digests
