"""One training on several GPUs: each batch is shared out, a process for each GPU takes the gradient
of its share, and their sum is stepped.

The first process, the worker itself, does all else: it alone has the optimizer, keeps states and
evaluates. Before a batch it tells the
others (ml/training/rank_process.py) the step and the weights; after it they give it their
gradients. So a batch is
what the recipe says, however many share
it, and a state that one GPU left is gone on from by eight. What goes over the wires in a step is
what an all-reduce takes: weights one way,
gradients the other (cf. torch.nn.parallel.DistributedDataParallel). Numbers go through gloo,
tensors of a GPU through NCCL.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from olivebuild.core.errors import StepError
from olivebuild.core.processes import python
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.training.parameters import Trainable

if TYPE_CHECKING:
    from olivebuild.api.job import Job

PATIENCE = timedelta(days=7)
"""How long one waits for the others: a model may take its time to load, and an evaluation.

That a process has ended is seen at once.
"""
GRACE_SECONDS, GONE_SECONDS = 5.0, 1.0
END = -1


def count_for(device: torch.device, batch: int) -> int:
    """How many processes train: one for each GPU that this process was given, if there are rows for
    all.
    """
    return max(1, min(torch.cuda.device_count(), batch)) if device.type == "cuda" else 1


def share_of(rows: Sequence[Tokens], rank: int, count: int) -> list[Tokens]:
    """The rows of a batch that a process takes, in their order: the longest goes first, to whoever
    has the fewest tokens.
    """
    tokens, own = [0] * count, []
    for index in sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i)):
        taker = tokens.index(min(tokens))
        tokens[taker] += len(rows[index])
        if taker == rank:
            own.append(index)
    return [rows[i] for i in sorted(own)]


class Ranks:
    """The helpers of a training, while they are needed: started at once, since each loads the
    model; `join` waits for them.
    """

    def __init__(self, job: Job, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self.count = count
        self._job, self._device, self._dtype = job, device, dtype
        self._meeting = job.out.parent / "ranks"
        self._ended = False
        self._action = job.out.parent / "shared.json"
        self._action.write_text(job.action.to_json())
        self._helpers = [self._start(rank) for rank in range(1, count)]

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        own = (
            {"CUDA_VISIBLE_DEVICES": visible.split(",")[rank] if visible else str(rank)}
            if self._device.type == "cuda"
            else {}
        )
        # In the same number format, whatever each card likes best: what is sent is bytes.
        words = [
            str(self._action),
            str(rank),
            str(self.count),
            str(self._meeting),
            str(self._dtype).removeprefix("torch."),
        ]
        process = subprocess.Popen(
            python("-m", "olivebuild.ml.training.rank_process", *words),
            # It ends when the other end of its stdin closes; its words go to the log.
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | own,
        )
        threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()
        return process

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        """Whoever waits for a process that is gone waits for ever: then this one ends, too."""
        code = process.wait()
        # If this process fails as well, its own reason is the better one.
        time.sleep(GONE_SECONDS)
        if not self._ended:
            self._job.say("error", **self._fault(rank, code).to_json())
            os._exit(1)

    def _fault(self, rank: int, code: int) -> StepError:
        target = self._job.action.target
        fact = (
            f"{target} failed: process {rank + 1} of the {self.count} that share its batches ended "
            f"with {code}"
        )
        return StepError(fact, hint=f"`olivebuild log {target}` shows its output")

    def __enter__(self) -> Ranks:
        return self

    def join(self) -> None:
        connect(self._meeting, 0, self.count, self._device)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        # A connection that broke is told by the process that broke it.
        fault = self._gone() if isinstance(error, RuntimeError) else None
        self._ended = True
        if error is None:
            # What is finished needs nobody any more.
            with contextlib.suppress(RuntimeError):
                _tell(END)
        # After an error they may wait for what never comes, and hold nothing that is needed.
        deadline = time.monotonic() + (GRACE_SECONDS if error is None else 0.0)
        for helper in self._helpers:
            try:
                helper.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait()
            if helper.stdin:
                helper.stdin.close()
        if dist.is_initialized():
            (dist.destroy_process_group if error is None else _abort)()
        if fault:
            raise fault from error

    def _gone(self) -> StepError | None:
        """Why a helper's connection broke, if it has ended by itself: that may be known a moment
        later.
        """
        deadline = time.monotonic() + GONE_SECONDS
        while time.monotonic() < deadline:
            for rank, helper in enumerate(self._helpers, 1):
                if (code := helper.poll()) is not None:
                    return self._fault(rank, code)
            time.sleep(0.02)
        return None

    def begin(self, step: int, scale: float, trainable: Trainable) -> None:
        """Have the helpers begin with a step's batch, by the weights as they are now."""
        _tell(step, scale)
        dist.broadcast(_flat(trainable.used), 0)

    def add_up(self, trainable: Trainable, loss: torch.Tensor) -> torch.Tensor:
        """Make the gradients the sums of everybody's; the loss of the whole batch."""
        flat = give(trainable, loss)
        for weight, gradient in zip(
            trainable.weights, _pieces(flat[:-1], trainable.weights), strict=True
        ):
            weight.grad = gradient
        return flat[-1]


def connect(meeting: Path, rank: int, count: int, device: torch.device) -> None:
    """Wait for all processes, at a file that is theirs alone: a port would be open to other
    machines.
    """
    store = dist.FileStore(str(meeting), count)  # type: ignore[attr-defined]
    store.set_timeout(PATIENCE)
    if sys.platform == "linux":
        # All are on this machine, whose own name may be nobody's to look up.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)


def _abort() -> None:
    """Leave the others without waiting for what was begun with them."""
    # NCCL's kernels wait for ever, and so would their end; a name of torch's own, from 2.6 on.
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    (abort if abort and torch.cuda.is_available() else dist.destroy_process_group)()


def _tell(step: int, scale: float = 1.0) -> None:
    dist.broadcast(torch.tensor([step, scale], dtype=torch.float64), 0)


def told() -> tuple[int, float]:
    """In a helper: the step that the first process begins, or END, and what the loss is multiplied
    with.
    """
    numbers = torch.empty(2, dtype=torch.float64)
    dist.broadcast(numbers, 0)
    step, scale = numbers.tolist()
    return int(step), scale


@torch.no_grad()
def take_weights(trainable: Trainable) -> None:
    """In a helper: compute with the weights that the first process has."""
    flat = _flat(trainable.used)
    dist.broadcast(flat, 0)
    torch._foreach_copy_(trainable.used, _pieces(flat, trainable.used))


@torch.no_grad()
def give(trainable: Trainable, loss: torch.Tensor) -> torch.Tensor:
    """Add gradients and loss to those of the first process, which gets the sums."""
    flat = _flat(
        [
            *(torch.zeros_like(w) if w.grad is None else w.grad for w in trainable.weights),
            loss.detach().float(),
        ]
    )
    dist.reduce(flat, 0)
    return flat


@torch.no_grad()
def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _pieces(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    pieces = torch.split_with_sizes(flat, [t.numel() for t in tensors])
    return [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)]
