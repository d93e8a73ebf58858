"""Data-parallel training on several GPUs: each computes the gradient of its share of a batch.

The first process, the worker itself, has the optimizer, writes states and evaluates. Before a batch
it broadcasts the step and the weights to the others (ml/training/rank_process.py); after it their
gradients are summed to it. So a batch is the recipe's, however many processes share it, and a
training that ran on one GPU resumes on eight. A step transfers as much as an all-reduce: weights
one way, gradients the other (cf. torch.nn.parallel.DistributedDataParallel). Numbers go through
gloo, tensors of a GPU through NCCL. Processes on other nodes take part as those of this one do
(ml/training/nodes/node_process.py).
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
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import FileStore, Store  # type: ignore[attr-defined]

from olivebuild.core.errors import StepError
from olivebuild.core.processes import python
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.training.nodes.rendezvous import (
    SCHEME,
    Node,
    Others,
    join,
    share_of,
    use_interface_to,
)
from olivebuild.ml.training.parameters import Trainable

if TYPE_CHECKING:
    from olivebuild.api.job import Job

TIMEOUT = timedelta(days=7)
"""Time to wait for other processes, which may load a model or evaluate for long.

A process that has ended is noticed at once.
"""
GRACE_SECONDS = 5.0
"""Time for the ranks to end by themselves after a training."""
GONE_SECONDS = 1.0
"""Time in which the cause of a broken connection shows."""
ALONE = Node()
"""The place of a node that has no others."""
END = -1
"""The step that tells the ranks to end."""
PASS = -2
"""The step that has the ranks take part in a pass without a batch, where they share the base."""


def count_for(device: torch.device, batch: int) -> int:
    """Return the number of processes here: one for each visible GPU, at most one for each row."""
    return max(1, min(torch.cuda.device_count(), batch)) if device.type == "cuda" else 1


def start_rank(
    arguments: Sequence[str], device: torch.device, index: int
) -> subprocess.Popen[bytes]:
    """Start a process of a training, which sees the GPU `index` of those that this one sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    environment = dict(os.environ)
    if device.type == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[index] if visible else str(index)
    return subprocess.Popen(
        python("-m", "olivebuild.ml.training.rank_process", *arguments),
        # It ends when the other end of its stdin closes; its stderr goes to the log.
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
    )


def local_share(rows: Sequence[Tokens], rank: int, count: int) -> list[Tokens]:
    """Return the rows of a batch that process `rank` of `count` takes, in their order.

    They are dealt out longest first, each to the process with the fewest tokens so far.
    """
    tokens, indices = [0] * count, []
    for index in sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i)):
        taker = tokens.index(min(tokens))
        tokens[taker] += len(rows[index])
        if taker == rank:
            indices.append(index)
    return [rows[i] for i in sorted(indices)]


class Ranks:
    """Context manager of the other processes of a training.

    They start at once, since each loads the model; `join` waits for them.
    """

    def __init__(
        self, job: Job, device: torch.device, dtype: torch.dtype, batch: int, node: Node = ALONE
    ) -> None:
        self.nodes = node.total
        self.count = local = count_for(device, batch)
        self._job, self._device = job, device
        # All in one number format, whatever each card prefers: only bytes are transferred.
        dtype_name = str(dtype).removeprefix("torch.")
        self._meeting = str(job.out.parent / "ranks")
        self._ended = False
        self._others: Others | None = None
        if node.total > 1:
            self._others, self._meeting = Others(node, job.action.target), node.address
            layout = self._others.lay_out(share_of(device, local), batch, dtype_name)
            self.count, local = layout.total, layout.shares[0]
            self._others.watch(self._on_lost_node)
        file = job.out.parent / "shared.json"
        file.write_text(job.action.to_json())
        self._processes = [
            start_rank(
                [str(file), str(rank), str(self.count), self._meeting, dtype_name], device, rank
            )
            for rank in range(1, local)
        ]
        for rank, process in enumerate(self._processes, 1):
            threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        """End this process when that one does: a collective operation would wait for ever."""
        code = process.wait()
        # If this process fails as well, its own reason is the better one.
        time.sleep(GONE_SECONDS)
        self._end_by(self._fault(rank, code))

    def _on_lost_node(self) -> None:
        time.sleep(GONE_SECONDS)
        assert self._others
        assert self._others.fault
        self._end_by(self._others.fault)

    def _end_by(self, error: StepError) -> None:
        if not self._ended:
            self._job.say("error", **error.to_json())
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

    def note(self) -> str:
        """Return who shares the batches, in a sentence."""
        if self.nodes == 1:
            return f"{self.count} GPUs share each batch"
        return f"{self.nodes} nodes share each batch, by {self.count} processes"

    def join(self) -> None:
        """Wait until all processes have loaded the model."""
        store = self._others.store if self._others else store_at(self._meeting, self.count)
        if self._others:
            use_interface_to(self._meeting)
        connect(store, 0, self.count, self._device)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._ended = True
        # The process that broke a connection knows the cause of the error.
        fault = self._gone() if isinstance(error, RuntimeError) else None
        if error is None:
            with contextlib.suppress(RuntimeError):
                broadcast_step(END)
        # After an error they may wait for ever, and hold nothing that is needed.
        deadline = time.monotonic() + (GRACE_SECONDS if error is None else 0.0)
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin:
                process.stdin.close()
        if self._others:
            self._others.end()
        if dist.is_initialized():
            (dist.destroy_process_group if error is None else _abort)()
        if fault:
            raise fault from error

    def _gone(self) -> StepError | None:
        """Return the error of a process that ended by itself, which shows a moment later."""
        deadline = time.monotonic() + GONE_SECONDS
        while time.monotonic() < deadline:
            for rank, process in enumerate(self._processes, 1):
                if (code := process.poll()) is not None:
                    return self._fault(rank, code)
            time.sleep(0.02)
        return self._others.wait_for_fault() if self._others else None

    def broadcast(self, step: int, scale: float, trainable: Trainable) -> None:
        """Have the other processes begin with a step's batch, by the weights as they are now."""
        broadcast_step(step, scale)
        dist.broadcast(_flat(trainable.used), 0)

    def all_reduce(self, trainable: Trainable, loss: torch.Tensor) -> torch.Tensor:
        """Make the gradients the sums over all processes; return the loss of the whole batch."""
        flat = reduce_gradients(trainable, loss)
        for weight, gradient in zip(
            trainable.weights, _pieces(flat[:-1], trainable.weights), strict=True
        ):
            weight.grad = gradient
        return flat[-1]


class Passes:
    """What keeps processes together that share the base: none makes a pass without the others."""

    def __init__(self, rank: int) -> None:
        self._is_first = rank == 0

    def most(self, count: int) -> int:
        """Return the most passes of a batch that any process makes; this one makes `count`."""
        number = torch.tensor(count)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def announce(self) -> None:
        """In the first process: have the others take part in a pass outside of batches."""
        if self._is_first:
            broadcast_step(PASS)


def store_at(meeting: str, count: int) -> Store:
    """Return the place where the processes of a training meet.

    A file where all are on this machine: a port would be open to others.
    """
    if meeting.startswith(SCHEME):
        use_interface_to(meeting)
        return join(meeting)
    store = FileStore(meeting, count)
    if sys.platform == "linux":
        # This machine's own name may not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    return store


def connect(store: Store, rank: int, count: int, device: torch.device) -> None:
    """Join the process group, and wait for all of it."""
    store.set_timeout(TIMEOUT)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)


def _abort() -> None:
    """Leave the process group without waiting for operations in flight."""
    # NCCL's kernels wait for ever, and so would destroy_process_group. A private name of torch,
    # from 2.6 on.
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    (abort if abort and torch.cuda.is_available() else dist.destroy_process_group)()


def broadcast_step(step: int, scale: float = 1.0) -> None:
    """In the first process: begin a step, whose loss is multiplied with `scale`; or END."""
    dist.broadcast(torch.tensor([step, scale], dtype=torch.float64), 0)


def receive_step() -> tuple[int, float]:
    """In another process: return the step that the first one begins, or END, and its scale."""
    numbers = torch.empty(2, dtype=torch.float64)
    dist.broadcast(numbers, 0)
    step, scale = numbers.tolist()
    return int(step), scale


@torch.no_grad()
def receive_weights(trainable: Trainable) -> None:
    """In another process: take the weights of the first one."""
    flat = _flat(trainable.used)
    dist.broadcast(flat, 0)
    torch._foreach_copy_(trainable.used, _pieces(flat, trainable.used))
    trainable.forget_rounded()


@torch.no_grad()
def reduce_gradients(trainable: Trainable, loss: torch.Tensor) -> torch.Tensor:
    """Sum gradients and loss over all processes, into the first one.

    Return them flat, [weights + 1]; only the first process gets sums.
    """
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
