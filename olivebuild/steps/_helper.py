"""A process that takes the gradients of its share of each batch of a training: `python -m olivebuild.steps._helper FILE RANK COUNT MEETING`.

FILE holds the training's action. It ends with the process that started it; see _ranks.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import torch
import torch.distributed as dist

from olivebuild.executor import Action
from olivebuild.steps import _models, _ranks, _train
from olivebuild.steps.adapter import AdapterFields
from olivebuild.worker import Job, end_with_parent


def main(file: str, rank: int, count: int, meeting: str) -> None:
    # Whoever asks the worker's whole session to stop means the worker, which first ends its step and keeps its state.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    with open(os.devnull, "w") as nowhere:
        job = Job(Action.from_json(Path(file).read_text()), nowhere)
        fields: AdapterFields = job.fields(AdapterFields)
        device, dtype = _models.platform(fields.training.dtype)
        rows = _train.rows_of(job, fields)
        schedule = _train.schedule_of(fields.training, len(rows))
        forward = _train.forward_of(job, fields, rows, schedule, device, dtype)
        # Each draws its own dropout.
        torch.manual_seed(fields.training.seed + rank)
        _ranks.connect(Path(meeting), rank, count, device)
        _ranks.help_out(forward, rows, schedule, rank, count)
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
