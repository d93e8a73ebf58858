"""A process that takes the gradients of its share of each batch of a training: `python -m
olivebuild.ml.training.rank_process FILE RANK COUNT MEETING DTYPE`.

FILE holds the training's action. It ends with the process that started it; see
ml/training/data_parallel.py.
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
    # Whoever asks the worker's whole session to stop means the worker, which first ends its step
    # and keeps its state.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # What it has to say is the log's.
    job = Job(Action.from_json(Path(file).read_text()), sys.stderr)
    fields: AdapterFields = job.fields(AdapterFields)
    device, number_format = load.platform(dtype)
    rows = train.rows_of(job, fields)
    schedule = train.schedule_of(fields.training, len(rows))
    forward = train.forward_of(job, fields, rows, schedule, device, number_format)
    data_parallel.connect(Path(meeting), rank, count, device)
    help_out(forward, rows, schedule, fields.training.seed, rank, count)
    dist.destroy_process_group()


def help_out(
    forward: Forward, rows: Sequence[Tokens], schedule: Schedule, seed: int, rank: int, count: int
) -> None:
    """Take the gradients of this process's share of each batch that the first one begins, until it
    has had enough.
    """
    step, scale = data_parallel.told()
    if step == data_parallel.END:
        return
    # Dropout of its own, and not once more what it was when an earlier training began.
    torch.manual_seed(seed + rank + count * step)
    trainable, shares = (
        Trainable(forward.model),
        _shares(forward, rows, schedule, step, rank, count),
    )
    share, following = next(shares), None
    forward.model.train()
    while step != data_parallel.END:
        own, ready, labels = share
        data_parallel.take_weights(trainable)
        forward.scale = scale
        loss = forward.backward(own, ready, labels)
        trainable.take_gradients(scale)
        data_parallel.give(trainable, loss)
        for weight in trainable.weights:
            weight.grad = None
        # Laid out while the device still computes.
        following = following or next(shares, None)
        before = step
        step, scale = data_parallel.told()
        # Else the same batch again, scaled less.
        if step != before and following:
            share, following = following, None


Share = tuple[list[Tokens], list[Packed | Padded], int]
"""Rows, how they are laid out, and how many labels the whole batch has."""


def _shares(
    forward: Forward, rows: Sequence[Tokens], schedule: Schedule, start: int, rank: int, count: int
) -> Iterator[Share]:
    for indices in schedule.batches(start):
        batch = [rows[i] for i in indices]
        own = data_parallel.share_of(batch, rank, count)
        yield own, forward.lay_out(own), labels_of(batch)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
