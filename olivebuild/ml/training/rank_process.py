"""A process that computes the gradients of its share of each batch of a training.

`python -m olivebuild.ml.training.rank_process FILE RANK COUNT RENDEZVOUS DTYPE`, where FILE
holds the training's action, and RENDEZVOUS is a file or `tcp://HOST:PORT`. It ends with the process
that started it; see ml/training/data_parallel.py.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from olivebuild.api.action import Action
from olivebuild.api.job import Job
from olivebuild.core.processes import end_with_parent
from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.models import load
from olivebuild.ml.nn.forward import Forward, labels_of
from olivebuild.ml.nn.packing import Packed, Padded
from olivebuild.ml.training import data_parallel, train
from olivebuild.ml.training.parameters import Trainable
from olivebuild.ml.training.schedule import Schedule
from olivebuild.steps.adapter import AdapterFields


def main(file: str, rank: int, count: int, meeting: str, dtype: str) -> None:
    """Serve the training whose action is in `file`, until the first process ends it."""
    # A SIGTERM to the worker's session is meant for the worker, which first ends its step and
    # writes its state.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # Its messages go to the step's log, which is stderr.
    job = Job(Action.from_json(Path(file).read_text()), sys.stderr)
    fields: AdapterFields = job.fields(AdapterFields)
    device, number_format = load.platform(dtype)
    rows = train.rows_of(job, fields)
    schedule = train.schedule_of(fields.training, len(rows))
    shares = count if fields.training.shard else 1
    forward = train.forward_of(job, fields, rows, schedule, device, number_format, shares=shares)
    data_parallel.connect(data_parallel.store_at(meeting, count), rank, count, device)
    if shares > 1:
        forward.share_layers(rank, shares, data_parallel.Passes(rank))
    run_rank(forward, rows, schedule, fields.training.seed, rank, count)
    dist.destroy_process_group()


def run_rank(
    forward: Forward, rows: Sequence[Tokens], schedule: Schedule, seed: int, rank: int, count: int
) -> None:
    """Compute the gradients of this process's share of each batch that the first one begins."""
    step, scale = _next_step(forward)
    if step == data_parallel.END:
        return
    # Each process draws its own dropout, and a resumed training does not repeat an earlier one's.
    torch.manual_seed(seed + rank + count * step)
    trainable = Trainable(forward.model)
    shares = _shares(forward, rows, schedule, step, rank, count)
    share, following = next(shares), None
    forward.model.train()
    while step != data_parallel.END:
        local_rows, layout, labels = share
        data_parallel.receive_weights(trainable)
        forward.begin(step)
        forward.scale = scale
        loss = forward.backward(local_rows, layout, labels)
        trainable.take_gradients(scale)
        data_parallel.reduce_gradients(trainable, loss)
        for weight in trainable.weights:
            weight.grad = None
        # Laid out while the device still computes.
        following = following or next(shares, None)
        before = step
        step, scale = _next_step(forward)
        # The same step is the same batch again, scaled less.
        if step != before and following:
            share, following = following, None


def _next_step(forward: Forward) -> tuple[int, float]:
    """Return the next step, and take part in what the first process computes before it."""
    while True:
        step, scale = data_parallel.receive_step()
        if step != data_parallel.PASS:
            return step, scale
        forward.pass_along(judging=True)


Share = tuple[list[Tokens], list[Packed | Padded] | None, int]
"""Local rows of a batch, their micro-batches (None where a graph computes their gradient), and the
number of labels of the whole batch.
"""


def _shares(
    forward: Forward, rows: Sequence[Tokens], schedule: Schedule, start: int, rank: int, count: int
) -> Iterator[Share]:
    for indices in schedule.batches(start):
        batch = [rows[i] for i in indices]
        local_rows = data_parallel.local_share(batch, rank, count)
        layout = None if forward.replays(local_rows) else forward.lay_out(local_rows)
        yield local_rows, layout, labels_of(batch)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
