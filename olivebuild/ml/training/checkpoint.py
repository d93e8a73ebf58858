"""The state of a training in one file of safetensors and JSON, without pickle.

It is written completely or not at all, and read only if it is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from olivebuild.core import hashing
from olivebuild.core.fs.files import DEFAULT_MODE

if TYPE_CHECKING:
    from olivebuild.api.job import Job

FORMAT = "1"


@dataclass
class State:
    """All that decides how a training resumes after `step` steps, apart from its inputs."""

    step: int
    tensors: dict[str, torch.Tensor]
    figures: dict[str, Any] = field(default_factory=dict)
    """Losses so far and other figures, as JSON."""


def write(file: Path, state: State, scratch: Path, mode: int = DEFAULT_MODE) -> None:
    """Write a state to `file`, by way of a file in `scratch` that takes its place.

    `scratch` is the action's own folder, which is swept after a kill. `mode` are the permissions of
    the file. Raises OSError when there is no room; the file is then as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = scratch / file.name
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.tensors.items()}
    text = json.dumps({"step": state.step, "figures": state.figures})
    try:
        save_file(
            tensors,
            temporary,
            metadata={"format": FORMAT, "state": text, "digest": _digest(tensors, text)},
        )
        if mode != DEFAULT_MODE:
            temporary.chmod(mode & stat.S_IMODE(temporary.stat().st_mode))
        with open(temporary, "r+b") as f:
            os.fsync(f.fileno())
        os.replace(temporary, file)
    except SafetensorError as e:
        raise OSError(str(e)) from None
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        # The new name survives a power cut only if the folder is written, too.
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def read(file: Path) -> State | None:
    """Return the state in a file; None where there is none, or none that is complete."""
    try:
        with safe_open(file, "pt") as f:
            meta = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        if meta.get("format") != FORMAT or _digest(tensors, meta["state"]) != meta["digest"]:
            return None
        data = json.loads(meta["state"])
        return State(int(data["step"]), tensors, data["figures"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def _digest(tensors: dict[str, torch.Tensor], text: str) -> str:
    digest = hashing.hasher()
    digest.update(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].reshape(-1).contiguous()
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return str(digest.hexdigest())


class Checkpointer:
    """Callback that writes a training's state at intervals, and when SIGTERM asks to stop.

    A full disk is reported once, and the last complete state stays. `steps` are those of the whole
    training, after which no state is needed. `every` counts steps, `seconds` is a time; a state is
    written when either has passed.
    """

    def __init__(self, job: Job, *, steps: int, seconds: float, every: int | None) -> None:
        self.file = job.store.checkpoint(job.action.key)
        self.steps, self.seconds, self.every = steps, seconds, every
        self._job = job
        self._last = time.monotonic()
        self._failed = False
        self._stop = False

    def stop_on_sigterm(self) -> None:
        """Have SIGTERM stop the training after the step that is under way."""
        # Only the main thread may set a handler.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, self._ask_to_stop)

    def _ask_to_stop(self, *_: object) -> None:
        self._stop = True

    def due(self, step: int) -> bool:
        if self._stop:
            return True
        passed = time.monotonic() - self._last >= self.seconds
        return step < self.steps and (passed or bool(self.every and step % self.every == 0))

    def after(self, step: int, state: Callable[[], State]) -> bool:
        """Write the state. Raises SystemExit when the training was asked to stop."""
        self._last = time.monotonic()
        try:
            write(self.file, state(), self._job.out.parent, self._job.mode)
        except OSError as e:
            if not self._failed:
                self._job.note(
                    f"the training's state could not be kept at step {step}: "
                    f"{e.strerror or e}; training continues"
                )
            self._failed = True
        if self._stop:
            raise SystemExit(128 + signal.SIGTERM)
        return False
