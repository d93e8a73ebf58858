"""The state of a training in one file: written whole or not at all, read only if it is whole.
safetensors and JSON; no pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from olivebuild.core import hashing
from olivebuild.core.fs.files import DEFAULT_MODE

FORMAT = "1"


@dataclass
class State:
    """All that decides how a training goes on after `step` steps, apart from its inputs."""

    step: int
    tensors: dict[str, torch.Tensor]
    figures: dict[str, Any] = field(default_factory=dict)
    """Losses so far and the like, as JSON."""


def write(file: Path, state: State, scratch: Path, mode: int = DEFAULT_MODE) -> None:
    """Raises OSError when there is no room; the file is then as it was. `mode`: who may read it.

    `scratch`: the action's own folder, which is swept after a kill.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = scratch / file.name
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.tensors.items()}
    text = json.dumps({"step": state.step, "figures": state.figures})
    try:
        save_file(
            tensors,
            beside,
            metadata={"format": FORMAT, "state": text, "digest": _digest(tensors, text)},
        )
        if mode != DEFAULT_MODE:
            beside.chmod(mode & stat.S_IMODE(beside.stat().st_mode))
        with open(beside, "r+b") as f:
            os.fsync(f.fileno())
        os.replace(beside, file)
    except SafetensorError as e:
        raise OSError(str(e)) from None
    finally:
        beside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        # So that the new name survives a power cut.
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def read(file: Path) -> State | None:
    """The state; None where there is none, or none that is whole."""
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
    whole = hashing.hasher()
    whole.update(text.encode())
    for name in sorted(tensors):
        whole.update(name.encode())
        flat = tensors[name].reshape(-1).contiguous()
        whole.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return str(whole.hexdigest())


class Keeper:
    """Writes a training's state every so often.

    A full disk is said once; the last good state stays.
    """

    def __init__(
        self,
        file: Path,
        scratch: Path,
        seconds: float,
        steps: int | None,
        note: Any,
        mode: int = DEFAULT_MODE,
    ) -> None:
        self.file = file
        self.mode = mode
        self.scratch = scratch
        self.seconds = seconds
        self.steps = steps
        self.note = note
        self._last = time.monotonic()
        self._failed = False

    def due(self, step: int) -> bool:
        return (
            bool(self.steps and step % self.steps == 0)
            or time.monotonic() - self._last >= self.seconds
        )

    def keep(self, state: State, file: Path | None = None) -> None:
        self._last = time.monotonic()
        try:
            write(file or self.file, state, self.scratch, self.mode)
        except OSError as e:
            if not self._failed:
                self.note(
                    f"the training's state could not be kept at step {state.step}: "
                    f"{e.strerror or e}; training goes on"
                )
            self._failed = True
